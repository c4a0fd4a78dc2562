/** The server's HTTP routes, as the page needs them. */

import { recall, remember } from "./storage.js";

const BASE = new URL("../", import.meta.url); // the page may live under a path of a proxy

let key = recall("key", "sessionStorage");

/** An answer that is not what was asked for. `status` is 0 when there was no answer. */
export class ServerError extends Error {
  constructor(status, message, retryAfter = 0) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** Whether a key has been given. */
export function hasKey() {
  return key !== null;
}

/** Use this API key until the tab is closed. */
export function setKey(given) {
  key = given;
  remember("key", given, "sessionStorage");
}

/** What the server is and allows: model, sample_rate, limits and so on; needs no key. */
export async function info() {
  return (await request("v1/info")).json();
}

/** The voices' cards, the default first. */
export async function voices() {
  return (await (await request("v1/audio/voices")).json()).data;
}

/** A short sample of a voice, as a Blob. */
export async function preview(name, signal) {
  return (await request(`v1/audio/voices/${encodeURIComponent(name)}/preview?response_format=mp3`, { signal })).blob();
}

/** Keep a voice. fields: name, audio_sample (a Blob), consent, prompt_text. */
export async function addVoice(fields) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    if (value instanceof Blob) form.append(name, value, "recording.wav");
    else if (value) form.append(name, value);
  }
  return (await request("v1/audio/voices", { method: "POST", body: form })).json();
}

/** Delete a voice that was kept. */
export async function deleteVoice(name) {
  await request(`v1/audio/voices/${encodeURIComponent(name)}`, { method: "DELETE" });
}

/**
 * Speak: yields {type: "start", rate, seed, split} once, {type: "audio", samples} as it is made, and {type: "done",
 * fireside} at the end. Aborting `signal` cancels it on the server. Raises ServerError.
 *
 * split is the time before the first audio by stage, in milliseconds, `ttfa` their sum among it.
 */
export async function* speak(body, signal) {
  const response = await request("v1/audio/speech", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, response_format: "pcm", stream_format: "sse" }),
    signal,
  });
  yield {
    type: "start",
    rate: Number(response.headers.get("X-Sample-Rate")),
    seed: response.headers.get("X-Seed"),
    split: serverTiming(response.headers.get("Server-Timing") ?? ""),
  };
  for await (const event of events(response.body)) {
    if (event.type === "speech.audio.delta") yield { type: "audio", samples: samplesOf(event.audio) };
    if (event.type === "speech.audio.done") return yield { type: "done", fireside: event.fireside };
    if (event.type === "error") throw new ServerError(response.status, event.error.message);
  }
  throw new ServerError(0, "");
}

async function request(path, options = {}) {
  const headers = new Headers(options.headers);
  if (key) headers.set("Authorization", `Bearer ${key}`);
  let response;
  try {
    response = await fetch(new URL(path, BASE), { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, "");
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => null);
  const message = said?.error?.message ?? `${response.status} ${response.statusText}`;
  throw new ServerError(response.status, message, Number(response.headers.get("Retry-After")));
}

/** `queue;dur=1.2, flow;dur=80` as {queue: 1.2, flow: 80}. */
function serverTiming(header) {
  const entries = [...header.matchAll(/([\w-]+);dur=([\d.]+)/g)];
  return Object.fromEntries(entries.map(([, name, duration]) => [name, Number(duration)]));
}

/** The JSON of every event of a stream of server-sent events. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += value;
      const parts = text.split("\n\n");
      text = parts.pop();
      for (const part of parts) {
        const data = part.split("\n").filter((line) => line.startsWith("data:"));
        if (data.length) yield JSON.parse(data.map((line) => line.slice(5)).join("\n"));
      }
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, "");
  } finally {
    reader.cancel().catch(() => {}); // nothing is left to read after an error
  }
}

/** Base64 of little-endian int16 as floats in -1..1. */
function samplesOf(base64) {
  const text = atob(base64);
  const bytes = Uint8Array.from(text, (character) => character.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length >> 1 }, (_, i) => view.getInt16(2 * i, true) / 32768);
}
