/** The primitives in plain JavaScript, by @noble: for browsers, and as the second opinion on `node.ts`. */
import { chacha20poly1305 } from "@noble/ciphers/chacha.js";
import { ed25519, x25519 } from "@noble/curves/ed25519.js";
import { hkdf } from "@noble/hashes/hkdf.js";
import { hmac } from "@noble/hashes/hmac.js";
import { sha256, sha512 } from "@noble/hashes/sha2.js";
import { ml_kem768 } from "@noble/post-quantum/ml-kem.js";
import { concat } from "../bytes.ts";
import type { Primitives } from "./primitives.ts";

const TAG_BYTES = 16;
const ED25519_SIGNATURE_BYTES = 64;

export const noblePrimitives: Primitives = {
  sha256,
  sha512,
  hmacSha256: (key, data) => hmac(sha256, key, data),
  hkdfSha256: (ikm, salt, info, length) => hkdf(sha256, ikm, salt, info, length),

  x25519PublicKey: (privateKey) => x25519.getPublicKey(privateKey),
  x25519: (own, publicKey) => {
    if (own.privateKey.length !== 32 || publicKey.length !== 32) throw new Error("an X25519 key has 32 bytes");
    try {
      return x25519.getSharedSecret(own.privateKey, publicKey);
    } catch {
      // With both lengths right, the all-zero output is the one thing noble refuses.
      return null;
    }
  },

  ed25519PublicKey: (seed) => ed25519.getPublicKey(seed),
  ed25519Sign: (own, message) => ed25519.sign(message, own.privateKey),
  ed25519Verify: (publicKey, message, signature) => {
    if (signature.length !== ED25519_SIGNATURE_BYTES) return false;
    if (!ed25519.verify(signature, message, publicKey, { zip215: false })) return false;
    // noble multiplies by the cofactor: with a key of prime order, only a torsion component in R can tell the difference.
    return ed25519.Point.fromBytes(signature.subarray(0, 32)).isTorsionFree();
  },

  chacha20Poly1305Seal: (key, nonce, plaintext, aad) => {
    const sealed = chacha20poly1305(key, nonce, aad).encrypt(plaintext);
    return { ciphertext: sealed.subarray(0, plaintext.length), tag: sealed.subarray(plaintext.length) };
  },
  chacha20Poly1305Open: (key, nonce, { ciphertext, tag }, aad) => {
    if (tag.length !== TAG_BYTES) return null;
    try {
      return chacha20poly1305(key, nonce, aad).decrypt(concat(ciphertext, tag));
    } catch {
      return null;
    }
  },

  mlKem768PublicKey: (seed) => {
    const { publicKey, secretKey } = ml_kem768.keygen(seed);
    secretKey.fill(0);
    return publicKey;
  },
  mlKem768Encapsulate: (publicKey, randomness) => {
    const { sharedSecret, cipherText } = ml_kem768.encapsulate(publicKey, randomness);
    return { sharedSecret, ciphertext: cipherText };
  },
  mlKem768Decapsulate: (own, ciphertext) => {
    const { secretKey } = ml_kem768.keygen(own.privateKey);
    const sharedSecret = ml_kem768.decapsulate(ciphertext, secretKey);
    secretKey.fill(0);
    return sharedSecret;
  },
};
