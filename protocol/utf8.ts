/** UTF-8, strict both ways. The platform's TextEncoder is not in the language, and replaces what it cannot encode. */

/** Null when the text has a lone surrogate, which no UTF-8 spells. */
export function encodeUtf8(text: string): Uint8Array | null {
  const bytes = new Uint8Array(text.length * 3);
  let length = 0;
  for (const character of text) {
    const point = character.codePointAt(0) as number;
    if (point < 0x80) {
      bytes[length++] = point;
    } else if (point < 0x800) {
      bytes[length++] = 0xc0 | (point >> 6);
      bytes[length++] = continuation(point);
    } else if (point < 0x10000) {
      if (point >= 0xd800 && point <= 0xdfff) return null;
      bytes[length++] = 0xe0 | (point >> 12);
      bytes[length++] = continuation(point >> 6);
      bytes[length++] = continuation(point);
    } else {
      bytes[length++] = 0xf0 | (point >> 18);
      bytes[length++] = continuation(point >> 12);
      bytes[length++] = continuation(point >> 6);
      bytes[length++] = continuation(point);
    }
  }
  return bytes.slice(0, length);
}

/** Null when the bytes are not UTF-8: overlong forms, surrogates and points above U+10FFFF included. */
export function decodeUtf8(bytes: Uint8Array): string | null {
  let text = "";
  let i = 0;
  while (i < bytes.length) {
    const lead = bytes[i++] as number;
    if (lead < 0x80) {
      text += String.fromCharCode(lead);
      continue;
    }
    const following = followingBytes(lead);
    if (following === null) return null;
    let point = lead & (0x3f >> following);
    for (let k = 0; k < following; k++) {
      const next = bytes[i++];
      if (next === undefined || (next & 0xc0) !== 0x80) return null;
      point = (point << 6) | (next & 0x3f);
    }
    const overlong = (following === 2 && point < 0x800) || (following === 3 && point < 0x10000);
    const surrogate = point >= 0xd800 && point <= 0xdfff;
    if (overlong || surrogate || point > 0x10ffff) return null;
    text += String.fromCodePoint(point);
  }
  return text;
}

function followingBytes(lead: number): 1 | 2 | 3 | null {
  // 0xc0 and 0xc1 could only begin overlong forms.
  if (lead < 0xc2 || lead > 0xf4) return null;
  if (lead < 0xe0) return 1;
  return lead < 0xf0 ? 2 : 3;
}

function continuation(bits: number): number {
  return 0x80 | (bits & 0x3f);
}
