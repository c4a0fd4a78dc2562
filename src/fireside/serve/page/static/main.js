/** The page: type, choose a voice, hear it as it is made, see where the time went, keep it. */

import { hasKey, info, ServerError, setKey, speak } from "./api.js";
import { wav } from "./audio.js";
import { milliseconds, showFigures, showNotes, showStages } from "./figures.js";
import { isError, Message, sentence } from "./messages.js";
import { Player } from "./player.js";
import { current, preferred, t, translate } from "./strings.js";
import { VoicePicker } from "./voice-picker.js";
import { Waveform } from "./waveform.js";

const $ = (id) => document.getElementById(id);
const PLAY = "M8 5v14l11-7z";
const PAUSE = "M7 5h4v14H7zm6 0h4v14h-4z";

let server = null; // what it says about itself
let connecting; // Promise: its voices are listed, or the reason why not is shown
let running = null; // AbortController of the request that is being spoken
let said = null; // Message or error that is shown
let outcome = null; // of the request that the audio is from
const player = new Player(() => refresh());
const wave = new Waveform($("wave"));
const picker = new VoicePicker(tell);

/** Read what the server is; asks for a key when it wants one. */
async function connect() {
  try {
    server = await info();
    picker.configure(server);
    $("text").maxLength = server.limits.max_text;
    $("key-form").hidden = !server.needs_key || hasKey();
    if ($("key-form").hidden) await picker.load();
  } catch (error) {
    tell(error);
  }
  render();
}

/** Show a Message or an error, or nothing. */
function tell(what) {
  said = what;
  if (what instanceof ServerError && what.status === 401) {
    $("key-form").hidden = false;
    $("key").focus();
  }
  what?.element?.focus();
  renderSaid();
}

function renderSaid() {
  const error = said !== null && isError(said);
  $("error").hidden = !error;
  $("error").textContent = error ? sentence(said) : "";
  $("status").textContent = said !== null && !error ? sentence(said) : "";
}

/** Speak what is typed. */
async function run() {
  const asked = performance.now();
  let body;
  await connecting; // a quick hand speaks before the voices are listed
  if (running) return;
  try {
    body = { model: server?.model, input: $("text").value.trim(), ...settings(), ...picker.fields() };
    if (!body.input) throw new Message("errorEmpty", {}, $("text"));
  } catch (error) {
    return tell(error);
  }
  begin();
  try {
    await listen(body, running.signal, asked);
    const ms = Math.round(outcome.heard ?? outcome.split.ttfa);
    tell(new Message("done", { seconds: player.duration.toFixed(1), ms }));
  } catch (error) {
    if (error.name === "AbortError") tell(new Message("stopped", { seconds: player.duration.toFixed(1) }));
    else if (error.status === 0 && player.duration) tell(new Message("errorBroken"));
    else tell(error);
  }
  end();
}

/** Play a request's audio as it comes. */
async function listen(body, signal, asked) {
  for await (const event of speak(body, signal)) {
    if (event.type === "start") {
      wave.reset(event.rate);
      outcome = { split: event.split, seed: event.seed, heard: null, fireside: null, expected: expected(body) };
    } else if (event.type === "audio") {
      wave.append(event.samples);
      player.append(event.samples);
      if (player.parts.length === 1) begun();
      if (outcome.heard === null && player.untilHeard !== null) {
        outcome.heard = performance.now() - asked + 1000 * player.untilHeard;
        renderFigures();
      }
    } else {
      outcome.fireside = event.fireside;
    }
  }
}

function settings() {
  const [speed, seed, instructions] = [$("speed").valueAsNumber, $("seed").value, $("instructions").value.trim()];
  return { speed, ...(seed && { seed: Number(seed) }), ...(instructions && { instructions }) };
}

/** A guess at the seconds of a text, for the width of what is not there yet. */
function expected({ input, speed }) {
  const han = input.match(/\p{Script=Han}/gu)?.length ?? 0;
  return Math.max(2, (0.24 * han + 0.065 * (input.length - han)) / speed);
}

function begin() {
  picker.hush();
  running = new AbortController();
  outcome = null;
  player.reset(server?.sample_rate ?? player.rate); // from a click, since only that allows sound
  $("stop").hidden = false;
  $("speak").disabled = true;
  $("download").hidden = true;
  tell(new Message("working"));
}

/** The first audio is there. */
function begun() {
  player.play();
  $("result").hidden = false;
  tell(new Message("speaking"));
  renderFigures();
  frame();
}

function end() {
  running = null;
  $("stop").hidden = true;
  $("speak").disabled = false;
  player.finish();
  $("result").hidden = !player.duration;
  if (!player.duration) return;
  URL.revokeObjectURL($("download").href);
  $("download").href = URL.createObjectURL(wav(player.parts, player.rate));
  $("download").download = `fireside-${outcome.seed}.wav`;
  $("download").hidden = false;
  renderFigures();
}

/** Stop the request that is being spoken, if there is one, and its sound. */
function stop() {
  running?.abort();
  player.pause();
}

/** Draw what moves, as long as something does. */
function frame() {
  refresh();
  if (player.playing || running) requestAnimationFrame(frame);
}

function refresh() {
  const { position, duration, complete, playing } = player;
  const total = complete ? duration : Math.max(outcome?.expected ?? 2, duration * 1.05);
  wave.draw(total, position);
  $("position").max = total;
  $("position").value = position;
  $("position").setAttribute("aria-valuetext", t("seconds", { n: position.toFixed(1) }));
  $("time").textContent = t("time", { position: clock(position), duration: clock(duration) });
  $("play-icon").setAttribute("d", playing ? PAUSE : PLAY);
  $("play").setAttribute("aria-label", t(playing ? "pause" : "play"));
}

function clock(seconds) {
  return `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;
}

function renderFigures() {
  if (!outcome) return;
  const { split, heard, fireside, seed } = outcome;
  const { ttfa, ...stages } = split;
  const figures = [["ttfa", milliseconds(ttfa)]];
  if (heard !== null) figures.push(["heard", milliseconds(heard)]);
  if (fireside) figures.push(["rtf", fireside.timings.rtf.toFixed(2)]);
  figures.push(["length", t("seconds", { n: player.duration.toFixed(1) })], ["underruns", player.underruns], ["seedUsed", seed]);
  showNotes($("notes"), fireside?.notes ?? []);
  showFigures($("figures"), figures);
  showStages($("stage-bar"), $("stage-list"), stages);
  $("stages").hidden = false;
}

/** Write everything that depends on the language. */
function render() {
  $("about").textContent = server ? `${server.model} · Fireside ${server.version}` : "";
  $("count").textContent = t("count", { n: $("text").value.length, max: server?.limits.max_text ?? "…" });
  $("speed-value").textContent = `× ${$("speed").valueAsNumber.toFixed(2)}`;
  picker.render();
  renderSaid();
  renderFigures();
  refresh();
}

/** Change the page's language; an example that nobody has changed follows. */
function speakLanguage(language) {
  const untouched = !$("text").value || $("text").value === t("textExample");
  translate(language);
  if (untouched) $("text").value = t("textExample");
  for (const button of document.querySelectorAll(".languages button")) {
    button.setAttribute("aria-pressed", String(button.value === current()));
  }
  render();
}

for (const button of document.querySelectorAll(".languages button")) {
  button.addEventListener("click", () => speakLanguage(button.value));
}
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey($("key").value);
  tell(null);
  connecting = connect();
});
$("speak-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!running) run();
});
$("text").addEventListener("input", render);
$("speed").addEventListener("input", render);
$("stop").addEventListener("click", stop);
$("play").addEventListener("click", () => {
  if (player.playing) {
    player.pause();
  } else {
    player.play();
    frame();
  }
});
$("position").addEventListener("input", () => player.seek($("position").valueAsNumber));
addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("speak-form").requestSubmit();
  if (event.key === "Escape") stop();
});
addEventListener("resize", refresh);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", refresh);

speakLanguage(preferred());
connecting = connect();
