/**
 * Plays audio while it is still coming, and again afterwards.
 *
 * Every part becomes a buffer source that starts on the sample at which the one before ends. `origin` is the moment of
 * the context's clock at which position 0 is, or would have been, heard; pausing, seeking and running dry move it. Who
 * has run dry waits for a little more than the next part, so that a slow server is heard in sentences, not in scraps.
 */

const LEAD = 0.06; // seconds between asking for a sound and hearing it: the browser needs some
const REFILL = 1; // seconds to wait for after running dry
const AUDIBLE = 0.01; // -40 dBFS

export class Player {
  #context = null;
  #origin = 0;
  #resume = 0; // position at which to go on, while paused
  #sources = new Set();
  #length = 0; // samples
  #scheduled = 0; // samples that have been given to the context
  #audible = -1; // the first sample that can be heard

  /** onchange is called when it starts, stops, or has more to play. */
  constructor(onchange) {
    this.onchange = onchange;
    this.parts = [];
    this.rate = 24000;
    this.playing = false;
    this.complete = false;
    this.underruns = 0;
  }

  /** Drop everything, for audio of this rate. To be called from a click: browsers allow sound only then. */
  reset(rate) {
    this.#silence();
    if (this.#context?.sampleRate !== rate) {
      this.#context?.close();
      this.#context = new AudioContext({ sampleRate: rate, latencyHint: "interactive" });
    }
    this.#context.resume();
    if (navigator.audioSession) navigator.audioSession.type = "playback"; // iOS: heard even when the phone is mute
    Object.assign(this, { parts: [], rate, playing: false, complete: false, underruns: 0 });
    this.#resume = this.#length = 0;
    this.#audible = -1;
    this.onchange();
  }

  /** Add audio at the end; it is heard in its turn, or at once when its turn is past. */
  append(samples) {
    const at = this.#length;
    this.parts.push(samples);
    this.#length += samples.length;
    if (this.#audible < 0) {
      const first = samples.findIndex((sample) => Math.abs(sample) > AUDIBLE);
      if (first >= 0) this.#audible = at + first;
    }
    if (this.playing) this.#fill();
    this.onchange();
  }

  /** Nothing more will come. */
  finish() {
    this.complete = true;
    if (this.playing) this.#fill();
    if (this.playing && this.#sources.size === 0) this.#end();
    this.onchange();
  }

  /** Play from where it stands; from the start when it stands at the end. */
  play() {
    if (this.playing || !this.#length) return;
    this.#context.resume();
    this.playing = true;
    this.#scheduled = this.complete && this.#resume >= this.duration ? 0 : Math.floor(this.#resume * this.rate);
    this.#origin = this.#soon() - this.#scheduled / this.rate;
    this.#fill();
    this.onchange();
  }

  pause() {
    if (!this.playing) return;
    this.#resume = this.position;
    this.playing = false;
    this.#silence();
    this.onchange();
  }

  /** Go to a position in seconds. */
  seek(position) {
    const playing = this.playing;
    this.pause();
    this.#resume = Math.max(0, Math.min(position, this.duration));
    if (playing) this.play();
    this.onchange();
  }

  /** What is heard now, in seconds. */
  get position() {
    if (!this.playing) return this.#resume;
    return Math.max(0, Math.min(this.#context.currentTime - this.#origin, this.#scheduled / this.rate));
  }

  /** Seconds that have come so far. */
  get duration() {
    return this.#length / this.rate;
  }

  /** Seconds from now until the first audible sound leaves the loudspeaker; null while there is none. */
  get untilHeard() {
    if (this.#audible < 0 || !this.playing) return null;
    const latency = this.#context.outputLatency || this.#context.baseLatency || 0;
    return this.#origin + this.#audible / this.rate + latency - this.#context.currentTime;
  }

  #soon() {
    return Math.ceil((this.#context.currentTime + LEAD) * this.rate) / this.rate;
  }

  /** Give the context everything that it has not got. */
  #fill() {
    if (this.#origin + this.#scheduled / this.rate < this.#context.currentTime) {
      const waiting = this.#length - this.#scheduled;
      if (!waiting || (waiting < REFILL * this.rate && !this.complete)) return;
      this.#origin = this.#soon() - this.#scheduled / this.rate;
      this.underruns += 1;
    }
    let at = 0;
    for (const part of this.parts) {
      const end = at + part.length;
      if (end > this.#scheduled) this.#schedule(part, at, Math.max(0, this.#scheduled - at));
      at = end;
    }
    this.#scheduled = this.#length;
  }

  /** Play samples, which begin at sample `at` of the audio, from their sample `skip` on. */
  #schedule(samples, at, skip) {
    const buffer = this.#context.createBuffer(1, samples.length, this.rate);
    buffer.copyToChannel(samples, 0);
    const source = this.#context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.#context.destination);
    source.start(this.#origin + (at + skip) / this.rate, skip / this.rate);
    source.onended = () => this.#over(source);
    this.#sources.add(source);
  }

  #over(source) {
    this.#sources.delete(source);
    if (this.playing && this.complete && this.#sources.size === 0) this.#end();
  }

  #end() {
    this.playing = false;
    this.#resume = this.duration;
    this.onchange();
  }

  #silence() {
    for (const source of this.#sources) {
      source.onended = null;
      source.stop();
    }
    this.#sources.clear();
  }
}
