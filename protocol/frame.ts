/**
 * The plaintext frame (protocol.md §5), padded so that its length tells little (Padmé, PURBs §4).
 *
 *     frame = u8(1) ‖ lp(content_type) ‖ u32(length of body) ‖ body ‖ zero padding up to Padmé(length so far)
 */
import { ByteWriter } from "./bytes.ts";
import { Refusal } from "./refusal.ts";
import { decodeUtf8, encodeUtf8 } from "./utf8.ts";

const VERSION = 1;
export const CONTENT_TYPE_BYTES_MAX = 0xffff;
const BODY_LENGTH_BYTES = 4;
const HEAD_BYTES = 1 + 2 + BODY_LENGTH_BYTES;

export interface Frame {
  readonly contentType: string;
  readonly body: Uint8Array;
}

/** Why an authentic frame is refused for good. */
export type FrameFault = "bad-frame" | "bad-padding";

/** The padded length: rounded up to a multiple of 2^z, where z leaves log2(log2 L) significant bits. */
export function padme(length: number): number {
  if (length < 2) return length;
  const exponent = floorLog2(length);
  const step = 2 ** (exponent - (floorLog2(exponent) + 1));
  return Math.ceil(length / step) * step;
}

/** The length of a padded frame, from the lengths of content type and body. */
export function paddedFrameBytes(typeBytes: number, bodyBytes: number): number {
  return padme(HEAD_BYTES + typeBytes + bodyBytes);
}

/** Refuses (`malformed`) a content type that has no UTF-8 or more than 65,535 bytes of it. */
export function encodeFrame({ contentType, body }: Frame): Uint8Array {
  const type = encodeUtf8(contentType);
  if (type === null || type.length > CONTENT_TYPE_BYTES_MAX) throw new Refusal("malformed", { field: "/content_type" });
  const length = HEAD_BYTES + type.length + body.length;
  const padded = padme(length);
  return new ByteWriter(padded)
    .u8(VERSION)
    .lp(type)
    .u32(body.length)
    .bytes(body)
    .zeros(padded - length)
    .finish();
}

/** The body is a view of `frame`. The length of the padding is not checked. */
export function decodeFrame(frame: Uint8Array): Frame | FrameFault {
  if (frame.length < 3 || frame[0] !== VERSION) return "bad-frame";
  const typeEnd = 3 + (((frame[1] as number) << 8) | (frame[2] as number));
  const bodyStart = typeEnd + BODY_LENGTH_BYTES;
  if (bodyStart > frame.length) return "bad-frame";
  const bodyEnd = bodyStart + new DataView(frame.buffer, frame.byteOffset).getUint32(typeEnd);
  if (bodyEnd > frame.length) return "bad-frame";
  const contentType = decodeUtf8(frame.subarray(3, typeEnd));
  if (contentType === null) return "bad-frame";
  for (let i = bodyEnd; i < frame.length; i++) if (frame[i] !== 0) return "bad-padding";
  return { contentType, body: frame.subarray(bodyStart, bodyEnd) };
}

function floorLog2(value: number): number {
  return 31 - Math.clz32(value);
}
