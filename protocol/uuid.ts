/** UUIDs: 16 bytes on the wire, lower-case text everywhere else (protocol.md, notation). */
const TEXT = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const HEX = Array.from({ length: 256 }, (_, value) => value.toString(16).padStart(2, "0"));

export const UUID_BYTES = 16;

/** Is it the one spelling that is allowed? */
export function isUuid(text: string): boolean {
  return TEXT.test(text);
}

/** The 16 bytes of a text that `isUuid` accepts. */
export function uuidToBytes(text: string): Uint8Array {
  const bytes = new Uint8Array(UUID_BYTES);
  let at = 0;
  for (let i = 0; i < UUID_BYTES; i++) {
    if (text.charCodeAt(at) === 0x2d) at++;
    bytes[i] = (nibble(text.charCodeAt(at)) << 4) | nibble(text.charCodeAt(at + 1));
    at += 2;
  }
  return bytes;
}

export function uuidFromBytes(bytes: Uint8Array): string {
  let text = "";
  for (let i = 0; i < UUID_BYTES; i++) {
    if (i === 4 || i === 6 || i === 8 || i === 10) text += "-";
    text += HEX[bytes[i] as number];
  }
  return text;
}

function nibble(code: number): number {
  return code < 0x3a ? code - 0x30 : code - 0x57;
}
