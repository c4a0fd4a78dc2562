/** What the page says to its user: below the form, in the language of the moment. */

import { ServerError } from "./api.js";
import { t } from "./strings.js";

/** A sentence by its key, and the element that it is about. Keys that begin with "error" are errors. */
export class Message extends Error {
  constructor(key, values = {}, element = null) {
    super(key);
    this.key = key;
    this.values = values;
    this.element = element;
  }
}

/** The sentence of a Message or an error. Those of the server are its own, in English. */
export function sentence(said) {
  if (said instanceof Message) return t(said.key, said.values);
  if (!(said instanceof ServerError)) return said.message;
  if (said.status === 0) return t("errorServer");
  if (said.retryAfter > 0) return t("errorBusy", { message: said.message, seconds: said.retryAfter });
  return said.message;
}

/** Whether it is shown as an error. */
export function isError(said) {
  return !(said instanceof Message) || said.key.startsWith("error");
}
