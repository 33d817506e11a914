// What is asked of the server, with the key if it wants one, and its errors in words.

const KEPT = "hyperseek key";
let asking = null,
  key = null;
try {
  key = sessionStorage.getItem(KEPT);
} catch {
  // This browser keeps nothing, and the key is asked for again when the page is loaded.
}

/** What went wrong, in words for people. */
export class Failure extends Error {
  constructor(message, {status = 0, type = "", wait = null} = {}) {
    super(message);
    Object.assign(this, {status, type, wait});
  }
}

/**
 * Ask the server.
 * @param {string} path Relative to the page, so that the server may stand behind a path of another one.
 * @param {{body?: object, signal?: AbortSignal}} rest A body is sent as JSON.
 * @returns {Promise<any>} The answer.
 */
export async function ask(path, {body, signal} = {}) {
  const given = key,
    headers = {accept: "application/json"};
  if (given) headers.authorization = `Bearer ${given}`;
  if (body) headers["content-type"] = "application/json";
  let answer, values;
  try {
    answer = await fetch(new URL(path, document.baseURI), {
      method: body ? "POST" : "GET",
      headers,
      signal,
      body: body && JSON.stringify(body),
      cache: "no-store",
    });
    values = await answer.json().catch(error => {
      if (error.name === "AbortError") throw error;
      return null;
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server does not answer. It may have been stopped, or the connection is down.");
  }
  if (answer.ok && values !== null) return values;
  if (answer.status === 401) {
    await newKey(given, signal);
    return ask(path, {body, signal});
  }
  throw failure(answer, values);
}

function failure(answer, values) {
  const told = values && values.error && values.error.message,
    {status} = answer;
  const wait = Number(answer.headers.get("retry-after")) || (status === 429 || status === 503 ? 1 : null);
  const plain = {
    403: "The server does not allow this.",
    413: "This is longer than the server reads.",
    429: "The server is busy.",
    503: "The server is starting or stopping.",
    504: "This took longer than the server allows.",
  };
  const text = told || plain[status] || `The server answered with the status ${status}.`;
  return new Failure(text[0].toUpperCase() + text.slice(1), {status, type: values?.error?.type ?? "", wait});
}

/** Let the person give a key, once however many requests wait for it. */
function newKey(refused, signal) {
  if (key !== refused) return Promise.resolve(); // it was given in the meantime
  asking ??= new Promise(resolve => {
    const dialog = document.getElementById("ask-key"),
      field = document.getElementById("key");
    const before = document.activeElement;
    dialog.querySelector(".wrong").hidden = !refused;
    field.value = "";
    dialog.oncancel = event => event.preventDefault(); // without a key there is nothing behind it
    dialog.onclose = () => {
      if (!field.value.trim()) {
        dialog.showModal();
        return;
      }
      key = field.value.trim();
      try {
        sessionStorage.setItem(KEPT, key);
      } catch {
        // as above
      }
      field.value = "";
      asking = null;
      before?.focus?.();
      resolve();
    };
    dialog.showModal();
    field.focus();
  });
  return new Promise((resolve, reject) => {
    signal?.addEventListener("abort", () => reject(new DOMException("", "AbortError")), {once: true});
    asking.then(resolve);
  });
}
