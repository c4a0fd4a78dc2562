/** Samples from files, and files from samples. Samples are mono floats in -1..1. */

export const PROMPT_RATE = 24000; // of recordings sent as a voice to copy; speech models hear no more

/** The first seconds of an audio file, as samples at PROMPT_RATE; rejects when the browser cannot read it. */
export async function decode(blob, maxSeconds) {
  const context = new OfflineAudioContext(1, 1, PROMPT_RATE);
  const audio = await context.decodeAudioData(await blob.arrayBuffer());
  const samples = new Float32Array(Math.min(audio.length, maxSeconds * PROMPT_RATE));
  for (let channel = 0; channel < audio.numberOfChannels; channel++) {
    const data = audio.getChannelData(channel);
    for (let i = 0; i < samples.length; i++) samples[i] += data[i] / audio.numberOfChannels;
  }
  return samples;
}

/** A WAV file of 16 bits. parts: arrays of samples that follow each other. */
export function wav(parts, rate) {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const view = new DataView(new ArrayBuffer(44 + 2 * length));
  const write = (at, text) => [...text].forEach((character, i) => view.setUint8(at + i, character.charCodeAt(0)));
  write(0, "RIFF");
  view.setUint32(4, 36 + 2 * length, true);
  write(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // mono
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  write(36, "data");
  view.setUint32(40, 2 * length, true);
  let at = 44;
  for (const part of parts) {
    for (const sample of part) {
      view.setInt16(at, Math.round(Math.max(-1, Math.min(1, sample)) * 32767), true);
      at += 2;
    }
  }
  return new Blob([view], { type: "audio/wav" });
}

/** The base64 of a Blob's bytes. */
export function base64(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}
