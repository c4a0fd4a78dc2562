/** Records a voice from the microphone. */

const MAX_SECONDS = 30;
const TICK = 100; // milliseconds

/** Whether this page may ask for the microphone: browsers allow it on https and on localhost only. */
export const canRecord = Boolean(navigator.mediaDevices?.getUserMedia) && "MediaRecorder" in window;

export class Recorder {
  #stream;
  #recorder;
  #context;
  #timer;

  /** ontick(seconds, level 0..1) is called while it records; onstop(blob) when it has ended, by itself after 30 s. */
  constructor(ontick, onstop) {
    this.ontick = ontick;
    this.onstop = onstop;
  }

  get active() {
    return this.#recorder?.state === "recording";
  }

  /** Ask for the microphone and begin. Rejects when it is refused or there is none. */
  async start() {
    if (navigator.audioSession) navigator.audioSession.type = "play-and-record";
    // A voice is copied best as it is: what calls do to sound is left off.
    this.#stream = await navigator.mediaDevices.getUserMedia({
      audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false },
    });
    this.#context = new AudioContext();
    const meter = this.#context.createAnalyser();
    this.#context.createMediaStreamSource(this.#stream).connect(meter);
    const parts = [];
    this.#recorder = new MediaRecorder(this.#stream);
    this.#recorder.ondataavailable = (event) => parts.push(event.data);
    this.#recorder.onstop = () => this.#ended(new Blob(parts, { type: this.#recorder.mimeType }));
    this.#recorder.start();
    const began = performance.now();
    const window = new Float32Array(meter.fftSize);
    this.#timer = setInterval(() => {
      meter.getFloatTimeDomainData(window);
      const loudest = window.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0);
      const seconds = (performance.now() - began) / 1000;
      this.ontick(seconds, Math.min(1, loudest));
      if (seconds >= MAX_SECONDS) this.stop();
    }, TICK);
  }

  stop() {
    if (this.active) this.#recorder.stop();
  }

  #ended(blob) {
    clearInterval(this.#timer);
    for (const track of this.#stream.getTracks()) track.stop();
    this.#context.close();
    this.onstop(blob);
  }
}
