/**
 * What no log may hold: two ciphertexts that one message key was used for.
 */
import type { Envelope } from "../protocol/envelope.ts";

/**
 * Places (session, ratchet key, counter: they name the message key) and nonces that stand in two different ciphertexts. The same envelope may stand
 * there twice. No nonce comes twice at all, so neither does one under the same key.
 */
export function keysUsedTwice(envelopes: readonly Envelope[]): readonly string[] {
  const seen = new Map<string, string>();
  const twice: string[] = [];
  for (const { messageId, sessionId, dhPublicKey, sendCounter, nonce, ciphertext, authTag } of envelopes) {
    const made = `${messageId} ${hex(nonce)} ${hex(ciphertext)} ${hex(authTag)}`;
    for (const name of [`${hex(sessionId)} ${hex(dhPublicKey)} ${sendCounter}`, `nonce ${hex(nonce)}`]) {
      if ((seen.get(name) ?? made) !== made) twice.push(name);
      seen.set(name, made);
    }
  }
  return twice;
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}
