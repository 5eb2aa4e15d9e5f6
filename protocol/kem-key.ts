/** The check of an ML-KEM-768 encapsulation key (FIPS 203 §7.2), its length included. */
const COEFFICIENTS_BYTES = 1_152;
const KEY_BYTES = COEFFICIENTS_BYTES + 32;
const Q = 3_329;

/** Has it the right length, and is every coefficient reduced? */
export function isKemKey(publicKey: Uint8Array): boolean {
  if (publicKey.length !== KEY_BYTES) return false;
  // ByteDecode12: each three bytes hold two coefficients, the lower bits first.
  for (let i = 0; i < COEFFICIENTS_BYTES; i += 3) {
    const middle = publicKey[i + 1] as number;
    const first = (publicKey[i] as number) | ((middle & 0x0f) << 8);
    const second = (middle >> 4) | ((publicKey[i + 2] as number) << 4);
    if (first >= Q || second >= Q) return false;
  }
  return true;
}
