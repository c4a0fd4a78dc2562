/** Which voice speaks: one of the server's, or that of a recording made or chosen here. */

import { addVoice, deleteVoice, preview, voices } from "./api.js";
import { base64, decode, PROMPT_RATE, wav } from "./audio.js";
import { Message } from "./messages.js";
import { canRecord, Recorder } from "./recorder.js";
import { recall, remember } from "./storage.js";
import { current, t } from "./strings.js";
import { Waveform } from "./waveform.js";

const $ = (id) => document.getElementById(id);
const MIN_SECONDS = 1;
const MAX_SECONDS = 60; // more of a recording is never used
const MAX_FILE_MB = 50; // decoded in the browser, of which a phone has little
const CONSENT = "Confirmed on the web page: the person who speaks in the recording agrees that their voice is copied.";
const LANGUAGES = { en: "languageEn", zh: "languageZh" };

export class VoicePicker {
  #cards = [];
  #server = {};
  #wanted = recall("voice"); // null until someone chooses
  #recording = null; // {name, seconds, blob, base64} of a WAV
  #wave = new Waveform($("recording-wave"));
  #recorder = new Recorder((seconds, level) => this.#ticked(seconds, level), (blob) => this.#recorded(blob));
  #sample = new Audio();
  #sampling = new AbortController();

  /** tell(Message or error) shows what there is to say; null clears it. */
  constructor(tell) {
    this.tell = tell;
    for (const radio of document.getElementsByName("source")) radio.addEventListener("change", () => this.render());
    $("voice").addEventListener("change", () => this.#select($("voice").value));
    $("preview").addEventListener("click", () => this.#try(() => this.#preview(), $("preview")));
    $("delete").addEventListener("click", () => this.#try(() => this.#delete(), $("delete")));
    $("keep-button").addEventListener("click", () => this.#try(() => this.#keep(), $("keep-button")));
    $("record").addEventListener("click", () => this.#try(() => this.#toggle()));
    $("remove").addEventListener("click", () => this.#forget());
    $("file").addEventListener("change", () => this.#try(() => this.#choose($("file").files[0])));
    $("drop").addEventListener("dragover", (event) => {
      event.preventDefault();
      $("drop").classList.add("over");
    });
    $("drop").addEventListener("dragleave", () => $("drop").classList.remove("over"));
    $("drop").addEventListener("drop", (event) => {
      event.preventDefault();
      $("drop").classList.remove("over");
      this.#try(() => this.#choose(event.dataTransfer.files[0]));
    });
    $("record").disabled = !canRecord;
    addEventListener("resize", () => this.#draw());
  }

  /** What the server says about itself: whether recordings may be sent, and how long. */
  configure(server) {
    this.#server = server;
    $("source-recording").disabled = !server.uploads;
  }

  /** Read the server's voices. */
  async load() {
    this.#cards = await voices();
    $("source-list").disabled = !this.#cards.length;
    if (!this.#cards.length) $("source-recording").checked = true;
    this.render();
  }

  /** The fields that ask for the chosen voice. Throws a Message when something is missing. */
  fields() {
    if (!this.#recordingMode) return { voice: $("voice").value };
    this.#check();
    const transcript = $("transcript").value.trim();
    return {
      prompt_audio: this.#recording.base64,
      consent: CONSENT,
      ...(transcript && { prompt_text: transcript }),
    };
  }

  /** End the sample that is being heard or made. */
  hush() {
    this.#sampling.abort();
    this.#sample.pause();
  }

  /** Write everything that depends on the language or on what is chosen. */
  render() {
    const languages = [...new Set(this.#cards.filter((card) => card.bundled).map((card) => card.language))];
    languages.sort((a, b) => (b === current()) - (a === current()));
    const groups = languages.map((language) => [
      t(LANGUAGES[language] ?? "languageOther"),
      this.#cards.filter((card) => card.bundled && card.language === language),
    ]);
    groups.unshift([t("voicesOwn"), this.#cards.filter((card) => !card.bundled)]);
    $("voice").replaceChildren(...groups.filter(([, cards]) => cards.length).map(([label, cards]) => group(label, cards)));
    $("voice").value = this.#preferred()?.name;
    $("list-panel").hidden = this.#recordingMode;
    $("recording-panel").hidden = !this.#recordingMode;
    $("record-hint").textContent = t(canRecord ? "recordingHint" : "recordingUnavailable");
    this.#showCard();
    this.#showRecording();
  }

  get #recordingMode() {
    return $("source-recording").checked;
  }

  /** The voice that was chosen; else the default or another one of the page's language. */
  #preferred() {
    const wanted = this.#cards.find((card) => card.name === this.#wanted);
    const standard = this.#cards.find((card) => card.default) ?? this.#cards[0];
    const speaks = (card) => card?.language === current();
    return wanted ?? (speaks(standard) ? standard : (this.#cards.find(speaks) ?? standard));
  }

  #select(name) {
    this.#wanted = name;
    remember("voice", name);
    this.#showCard();
  }

  #showCard() {
    const card = this.#cards.find((each) => each.name === $("voice").value);
    $("preview").disabled = !card;
    $("delete").hidden = !card || card.bundled;
  }

  /** Do something, a button out of use meanwhile; what goes wrong is told. */
  async #try(action, button = null) {
    this.tell(null);
    if (button) button.disabled = true;
    try {
      await action();
    } catch (error) {
      if (error.name !== "AbortError") this.tell(error);
    } finally {
      if (button) button.disabled = false;
    }
  }

  async #preview() {
    this.hush();
    this.#sampling = new AbortController();
    const url = URL.createObjectURL(await preview($("voice").value, this.#sampling.signal));
    this.#sample.src = url;
    this.#sample.onended = this.#sample.onpause = () => URL.revokeObjectURL(url);
    await this.#sample.play();
  }

  async #delete() {
    const name = $("voice").value;
    if (!confirm(t("deleteSure", { name }))) return;
    await deleteVoice(name);
    await this.load();
    this.tell(new Message("deleted", { name }));
  }

  async #keep() {
    this.#check();
    const name = $("keep-name").value.trim();
    if (!name) throw new Message("errorName", {}, $("keep-name"));
    const fields = { name, consent: `${CONSENT} ${new Date().toISOString().slice(0, 10)}` };
    const transcript = $("transcript").value.trim();
    await addVoice({ ...fields, audio_sample: this.#recording.blob, prompt_text: transcript });
    $("source-list").checked = true;
    $("keep-name").value = "";
    this.#select(name);
    await this.load();
    this.tell(new Message("kept", { name }));
  }

  #check() {
    if (!this.#recording) throw new Message("errorRecording", {}, $("file"));
    if (!$("consent").checked) throw new Message("errorConsent", {}, $("consent"));
  }

  async #toggle() {
    if (this.#recorder.active) return this.#recorder.stop();
    this.#forget();
    try {
      await this.#recorder.start();
    } catch (error) {
      throw new Message("errorMicrophone", { reason: error.message || error.name });
    }
    this.#ticked(0, 0);
    $("read-aloud").textContent = t("readAloud", { text: $("transcript").value.trim() || t("readAloudText") });
    $("read-aloud").hidden = $("level").hidden = false;
    $("record").setAttribute("aria-pressed", "true");
  }

  #ticked(seconds, level) {
    $("record-label").textContent = t("recordStop", { seconds: Math.floor(seconds) });
    $("level").value = level;
  }

  #recorded(blob) {
    $("record-label").textContent = t("record");
    $("record").setAttribute("aria-pressed", "false");
    $("read-aloud").hidden = $("level").hidden = true;
    // Who read aloud what the page proposed need not write it down.
    if (!$("transcript").value.trim()) $("transcript").value = t("readAloudText");
    this.#try(() => this.#take(blob, t("recordingName")));
  }

  async #choose(file) {
    if (!file) return;
    this.#forget();
    if (file.size > MAX_FILE_MB * 2 ** 20) throw new Message("errorLarge", { name: file.name, mb: MAX_FILE_MB });
    await this.#take(file, file.name);
  }

  async #take(blob, name) {
    let samples;
    try {
      samples = await decode(blob, Math.min(MAX_SECONDS, this.#server.limits?.max_upload_seconds ?? MAX_SECONDS));
    } catch {
      throw new Message("errorFile", { name });
    }
    const seconds = samples.length / PROMPT_RATE;
    if (seconds < MIN_SECONDS) throw new Message("errorShort", { seconds: seconds.toFixed(1) });
    const file = wav([samples], PROMPT_RATE);
    this.#recording = { name, seconds, blob: file, base64: await base64(file) };
    this.#wave.reset(PROMPT_RATE);
    this.#wave.append(samples);
    $("recording-audio").src = URL.createObjectURL(this.#recording.blob);
    this.#showRecording();
  }

  #forget() {
    this.#recording = null;
    $("file").value = "";
    URL.revokeObjectURL($("recording-audio").src);
    $("recording-audio").removeAttribute("src");
    this.#showRecording();
  }

  #showRecording() {
    $("recording").hidden = !this.#recording;
    if (!this.#recording) return;
    const { name, seconds } = this.#recording;
    $("recording-name").textContent = t("recordingLength", { name, seconds: seconds.toFixed(1) });
    this.#draw();
  }

  #draw() {
    if (this.#recording) this.#wave.draw(this.#recording.seconds, 0);
  }
}

function group(label, cards) {
  const element = document.createElement("optgroup");
  element.label = label;
  element.append(...cards.map(({ name, description }) => new Option(description ? `${name} · ${description}` : name, name)));
  return element;
}
