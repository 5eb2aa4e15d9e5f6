import { decodeInitiation, type Initiation } from "../initiation.ts";
import { agreedSecret, initiatorOutputs, responderOutputs, sessionIdOf } from "../key-agreement.ts";
import { type Bundle, checkBundle } from "../prekeys.ts";
import type { KeyPair, Primitives } from "../primitives/primitives.ts";
import { startSession } from "../session.ts";
import { identityOf, pairOf, responderOf } from "./agents.ts";
import { type Case, type Checks, Fields, Mismatch, scriptedRandom } from "./case.ts";

/** Any ratchet key: these vectors end with the shared secret. */
export const RATCHET_KEY = new Uint8Array(32).fill(7);

/** What the KEM adds to an agreement of suite 2. */
interface KemVector {
  readonly randomness: Uint8Array;
  readonly ciphertext: Uint8Array;
  readonly sharedSecret: Uint8Array;
}

/** An agreement of this suite, computed from both sides. */
export function agreementCase(suite: 1 | 2, value: unknown): Case {
  return {
    name: new Fields(value).string("name"),
    run: (primitives, checks) => {
      const fields = new Fields(value);
      const initiator = fields.fields("initiator");
      const a = identityOf(primitives, initiator, checks);
      initiator.end();
      const responder = responderOf(primitives, fields.fields("responder"), checks);
      const ephemeral = pairOf(primitives, fields, "ephemeral_private_key", "ephemeral_public_key", checks);
      const now = fields.time("now");
      const outputs = outputsOf(fields);
      const kem = suite === 1 ? null : kemOf(fields);
      const secret = fields.bytes("shared_secret");
      const initiation = fields.bytes("initiation");
      const sessionId = fields.bytes("session_id");
      checks.equal("suite", suite, fields.number("suite"));
      fields.string("name");
      fields.end();

      checkBundle(primitives, responder.bundle, now);
      const { bundle } = responder;
      const keys = {
        identityKey: bundle.identityKey,
        signedPrekey: bundle.signedPrekey.publicKey,
        oneTimePrekey: bundle.oneTimePrekey?.publicKey ?? null,
      };
      const ofA = initiatorOutputs(primitives, a, ephemeral, keys);
      checks.equal("the initiator's outputs", ofA, outputs);
      const kemOfA = kem === null ? null : encapsulated(primitives, checks, bundle, kem);
      checks.equal("the initiator's secret", agreedSecret(primitives, ofA, kemOfA), secret);
      const { random } = scriptedRandom([ephemeral.privateKey, ...(kem === null ? [] : [kem.randomness]), RATCHET_KEY]);
      const session = startSession(primitives, a, bundle, { now, random });
      checks.equal("session_id", session.id, sessionId);
      checks.equal("initiation", session.unanswered?.initiation, initiation);

      const read = decodeInitiation(initiation);
      checks.equal("the initiation's suite", read.suite, suite);
      checks.equal("signed prekey's id", read.signedPrekeyId, bundle.signedPrekey.id);
      checks.equal("one-time prekey's id", read.oneTimePrekeyId, bundle.oneTimePrekey?.id ?? null);
      checks.equal("the responder's session_id", sessionIdOf(primitives, read, bundle.identityKey), sessionId);
      const ofB = responderOutputs(primitives, responder.identity, responder.pairs, read);
      checks.equal("the responder's outputs", ofB, outputs);
      const kemOfB = kem === null ? null : decapsulated(primitives, checks, responder, read, kem);
      checks.equal("the responder's secret", agreedSecret(primitives, ofB, kemOfB), secret);
    },
  };
}

/** DH1 to DH3, or DH4. */
export function outputsOf(fields: Fields): Uint8Array[] {
  const outputs = ["dh1", "dh2", "dh3"].map((name) => fields.bytes(name));
  const dh4 = fields.nullableBytes("dh4");
  return dh4 === null ? outputs : [...outputs, dh4];
}

function kemOf(fields: Fields): KemVector {
  return {
    randomness: fields.bytes("kem_randomness"),
    ciphertext: fields.bytes("kem_ciphertext"),
    sharedSecret: fields.bytes("kem_shared_secret"),
  };
}

function encapsulated(
  primitives: Primitives,
  checks: Checks,
  { kemPrekey }: Bundle,
  { randomness, ciphertext, sharedSecret }: KemVector,
): Uint8Array {
  if (kemPrekey === null) throw new Mismatch("suite 2 without a KEM prekey");
  const made = primitives.mlKem768Encapsulate(kemPrekey.publicKey, randomness);
  checks.equal("the initiator's KEM secret and ciphertext", made, { ciphertext, sharedSecret });
  return made.sharedSecret;
}

function decapsulated(
  primitives: Primitives,
  checks: Checks,
  { bundle, pairs }: { readonly bundle: Bundle; readonly pairs: { readonly kemPrekey: KeyPair | null } },
  read: Initiation,
  { sharedSecret }: KemVector,
): Uint8Array {
  if (read.suite !== 2 || pairs.kemPrekey === null) throw new Mismatch("suite 2 without a KEM prekey");
  checks.equal("KEM prekey's id", read.kemPrekeyId, bundle.kemPrekey?.id);
  const found = primitives.mlKem768Decapsulate(pairs.kemPrekey, read.kemCiphertext);
  checks.equal("the responder's KEM secret", found, sharedSecret);
  return found;
}
