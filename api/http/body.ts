/** The body of a request as bytes: whole, as it was sent, bounded. */
import type { IncomingMessage } from "node:http";
import { ApiRefusal } from "../problem.ts";

/** A hundred envelopes at 65,536 bytes of ciphertext in base64url are 8.8 MB: whoever sends such sends fewer of them a call. */
export const BODY_BYTES_MAX = 8 * 1024 * 1024;

/** A registration is looked into before its signature can be checked, so it must cost nothing: it has some 100 bytes. */
export const UNPROVEN_BODY_BYTES_MAX = 4 * 1024;

/** Does it say that it has one? */
export function announcesBody({ headers }: IncomingMessage): boolean {
  return headers["transfer-encoding"] !== undefined || Number(headers["content-length"] ?? "0") > 0;
}

/**
 * Reads it to its end; null when it has no bytes.
 *
 * @throws ApiRefusal `too-large`, as soon as it is known
 */
export async function readBody(request: IncomingMessage, bytesMax = BODY_BYTES_MAX): Promise<Uint8Array | null> {
  if (!announcesBody(request)) return null;
  if (Number(request.headers["content-length"] ?? "0") > bytesMax) throw tooLarge(bytesMax);
  const chunks: Buffer[] = [];
  let size = 0;
  // Not destroyed when it is too large: the answer goes over the same socket.
  for await (const chunk of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > bytesMax) throw tooLarge(bytesMax);
    chunks.push(chunk);
  }
  return size === 0 ? null : Buffer.concat(chunks, size);
}

/** Plain JSON, not compressed: what the digest covers is what is parsed. */
export function requirePlainJson({ headers }: IncomingMessage): void {
  const mediaType = (headers["content-type"] ?? "").split(";")[0]?.trim().toLowerCase();
  if (mediaType !== "application/json") throw new ApiRefusal("unsupported-media-type", { field: "Content-Type" });
  const encoding = headers["content-encoding"]?.trim().toLowerCase();
  if (encoding !== undefined && encoding !== "identity") {
    throw new ApiRefusal("unsupported-media-type", { field: "Content-Encoding" });
  }
}

function tooLarge(bytesMax: number): ApiRefusal {
  return new ApiRefusal("too-large", { field: "", detail: `the body of this call has at most ${bytesMax} bytes` });
}
