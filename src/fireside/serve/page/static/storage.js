/** Choices kept in the browser; where it forbids that, they are forgotten with the page. */

/** What was remembered under a name, or null. */
export function recall(name, storage = "localStorage") {
  try {
    return window[storage].getItem(`fireside-${name}`);
  } catch {
    return null;
  }
}

/** Remember a text under a name; in "sessionStorage" until the tab is closed. */
export function remember(name, text, storage = "localStorage") {
  try {
    window[storage].setItem(`fireside-${name}`, text);
  } catch {
    // Forbidden or full: nothing depends on it.
  }
}
