// What the page asks of its server. Every failure is an ApiError with one line for the person.

export class ApiError extends Error {
  constructor(message, status, answer) {
    super(message);
    this.status = status; // 0: no answer at all
    this.answer = answer;
  }
}

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", ...options });
  } catch {
    throw new ApiError("The server does not answer: is `tag2mask serve` still running?", 0);
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({}));
  throw new ApiError(answer.error ?? `The server answered ${response.status}`, response.status, answer);
}

export const getJson = async (path) => (await request(path)).json();

// {shape, classes, values}: an array of bytes, row by row
export async function getArray(path, signal) {
  const response = await request(path, { signal });
  const shape = response.headers.get("X-Shape").split(",").map(Number);
  const classes = response.headers.get("X-Classes")?.split(",").filter(Boolean).map(Number) ?? [];
  return { shape, classes, values: new Uint8Array(await response.arrayBuffer()) };
}

export async function getBitmap(path) {
  return createImageBitmap(await (await request(path)).blob());
}

export const post = (path, body) => request(path, { method: "POST", body, headers: { "X-Tag2mask": "1" } });

export const postJson = async (path, body) => (await post(path, body)).json();

export function saveBlob(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
