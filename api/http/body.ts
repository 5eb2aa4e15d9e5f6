/** The body of a request as bytes: whole, as it was sent, bounded, for itself and for all that are held at a time. */
import type { IncomingMessage, ServerResponse } from "node:http";
import { Unavailable } from "../../protocol/refusal.ts";
import { ApiRefusal } from "../problem.ts";
import { announcesBody } from "../request-facts.ts";
import type { BodyRoom } from "./bodies-held.ts";

/** A hundred envelopes at 65,536 bytes of ciphertext in base64url are 8.8 MB: whoever sends such sends fewer of them a call. */
export const BODY_BYTES_MAX = 8 * 1024 * 1024;

/** A registration is looked into before its signature can be checked, so it must cost next to nothing: it has some 100 bytes, and the token of a provider. */
export const UNPROVEN_BODY_BYTES_MAX = 12 * 1024;

/**
 * Reads it to its end; null when it has no bytes. A client that waits for leave to send it (`Expect: 100-continue`) is given it here.
 *
 * @throws ApiRefusal `too-large`, as soon as it is known; `Unavailable` of the service while too much is held already
 */
export async function readBody(
  request: IncomingMessage,
  response: Pick<ServerResponse, "writeContinue">,
  room: BodyRoom,
  bytesMax = BODY_BYTES_MAX,
): Promise<Uint8Array | null> {
  if (!announcesBody(request)) return null;
  const announced = Number(request.headers["content-length"] ?? "0");
  if (announced > bytesMax) throw tooLarge(bytesMax);
  if (!room.fits(announced)) throw new Unavailable("service");
  if (expectsLeave(request)) response.writeContinue();
  const chunks: Buffer[] = [];
  let size = 0;
  // Not destroyed when it is too large: the answer goes over the same socket.
  for await (const chunk of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > bytesMax) throw tooLarge(bytesMax);
    if (!room.take(chunk.length)) throw new Unavailable("service");
    chunks.push(chunk);
  }
  return size === 0 ? null : Buffer.concat(chunks, size);
}

/** Its client does not send the body before it is told to. */
export function expectsLeave({ headers }: IncomingMessage): boolean {
  return headers.expect?.toLowerCase() === "100-continue";
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
