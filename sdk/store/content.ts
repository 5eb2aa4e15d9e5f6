/** What a message says, as it lies in the store: `lp(content type) ‖ body`, sealed by the caller. */
import { ByteReader, ByteWriter } from "../../protocol/bytes.ts";
import { decodeUtf8, encodeUtf8 } from "../../protocol/utf8.ts";

export interface Content {
  readonly contentType: string;
  readonly body: Uint8Array;
}

export function encodeContent(content: Content): Uint8Array {
  const contentType = encodeUtf8(content.contentType);
  if (contentType === null) throw new Error("a content type has a lone surrogate");
  return new ByteWriter(2 + contentType.length + content.body.length).lp(contentType).bytes(content.body).finish();
}

/** Takes only what `encodeContent` gave. */
export function decodeContent(bytes: Uint8Array): Content {
  const reader = new ByteReader(bytes);
  const length = reader.u16();
  return { contentType: decodeUtf8(reader.bytes(length)) ?? "", body: reader.bytes(bytes.length - 2 - length) };
}
