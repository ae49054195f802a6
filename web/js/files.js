// Talking to ComfyUI's server about files: upload a RAW, address a picture.

import { api } from "../../../scripts/api.js";

const TOO_LARGE =
  "ComfyUI takes uploads of 100 MB at most. Start it with a larger --max-upload-size " +
  "(in megabytes), or copy the file into ComfyUI's input folder and press R.";

/** Upload one file into the input folder; returns the name that a combo lists it under. */
export async function uploadToInput(file) {
  const body = new FormData();
  body.append("image", file);
  body.append("type", "input");
  // Newer frontends give up after a minute unless told otherwise; older ones ignore the option.
  const response = await api.fetchApi("/upload/image", { method: "POST", body, timeoutMs: null });
  if (response.status === 413) throw new Error(`${file.name}: ${TOO_LARGE}`);
  if (response.status !== 200) {
    throw new Error(`${file.name} was not uploaded: the server answered ${response.status}.`);
  }
  const { name, subfolder } = await response.json();
  return subfolder ? `${subfolder}/${name}` : name;
}

/** Address of a picture that a node reported; never the same twice, since temp names recur. */
export function pictureUrl({ filename, subfolder, type }) {
  const query = new URLSearchParams({ filename, subfolder, type, rand: Math.random() });
  return api.apiURL(`/view?${query}`);
}

/** Address of the small picture of a RAW file; changes with every call, so nothing stale shows. */
export function thumbnailUrl(file) {
  return api.apiURL(`/ldmsid/thumbnail?${new URLSearchParams({ file, rand: Math.random() })}`);
}
