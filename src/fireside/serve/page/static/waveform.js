/** A drawing of audio that may still be coming: bars from left to right, those already heard in the accent. */

const BAR = 3; // CSS pixels
const GAP = 1;
const GRAIN = 0.01; // seconds whose loudest sample is kept

export class Waveform {
  #canvas;
  #rate = 24000;
  #peaks = [];
  #length = 0; // samples

  constructor(canvas) {
    this.#canvas = canvas;
  }

  /** Forget everything, for audio of this rate. */
  reset(rate) {
    this.#rate = rate;
    this.#peaks = [];
    this.#length = 0;
  }

  append(samples) {
    const grain = this.#rate * GRAIN;
    for (const sample of samples) {
      const at = Math.floor(this.#length / grain);
      this.#peaks[at] = Math.max(this.#peaks[at] ?? 0, Math.abs(sample));
      this.#length += 1;
    }
  }

  /** Draw it over `total` seconds, heard up to `position`. Colours are the page's, so both schemes are served. */
  draw(total, position) {
    const canvas = this.#canvas;
    const { clientWidth: width, clientHeight: height } = canvas;
    const [wide, high] = [Math.round(width * devicePixelRatio), Math.round(height * devicePixelRatio)];
    if (canvas.width !== wide || canvas.height !== high) Object.assign(canvas, { width: wide, height: high });
    const pen = canvas.getContext("2d");
    pen.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const style = getComputedStyle(canvas);
    const [heard, made, none] = ["--accent", "--wave", "--line"].map((name) => style.getPropertyValue(name));
    const loudest = this.#peaks.reduce((a, b) => Math.max(a, b), 0.1);
    const bars = Math.floor(width / (BAR + GAP));
    const perBar = total / GRAIN / bars; // grains
    for (let i = 0; i < bars; i++) {
      const grains = this.#peaks.slice(Math.floor(i * perBar), Math.max(Math.floor((i + 1) * perBar), Math.floor(i * perBar) + 1));
      const tall = Math.max(2, (Math.max(0, ...grains) / loudest) * height);
      pen.fillStyle = !grains.length ? none : (i + 0.5) * perBar * GRAIN < position ? heard : made;
      pen.fillRect(i * (BAR + GAP), (height - tall) / 2, BAR, tall);
    }
  }
}
