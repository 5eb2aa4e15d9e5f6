import { EMPTY } from "../bytes.ts";
import { type Identity, identityFromSeed } from "../identity.ts";
import { decodeInitiation } from "../initiation.ts";
import { initiatorOutputs, responderOutputs, sessionIdOf, x3dhSecret } from "../key-agreement.ts";
import { initiate, unknownPeer } from "../peer.ts";
import { type Bundle, checkBundle, isPrekeySignatureValid, type OneTimePrekey, type SignedPrekey } from "../prekeys.ts";
import { type KeyPair, type Primitives, x25519PairFrom } from "../primitives/primitives.ts";
import { answerSession, startSession } from "../session.ts";
import { type Case, type Checks, Fields, Mismatch, scriptedRandom } from "./case.ts";

/** Any ratchet key: these vectors end with the shared secret. */
const RATCHET_KEY = new Uint8Array(32).fill(7);

/** Stands where an id does not matter. */
const SOME_ID = "00000000-0000-4000-8000-000000000000";

export function x3dhCases(file: Fields): Case[] {
  return [...file.list("cases").map(agreementCase), ...file.list("refused").map(refusedCase)];
}

function agreementCase(value: unknown): Case {
  return {
    name: new Fields(value).string("name"),
    run: (primitives, checks) => {
      const fields = new Fields(value);
      const initiator = fields.fields("initiator");
      const a = identityOf(primitives, initiator, checks);
      initiator.end();
      const b = fields.fields("responder");
      const responder = responderOf(primitives, b, checks);
      const ephemeral = pairOf(primitives, fields, "ephemeral_private_key", "ephemeral_public_key", checks);
      const now = fields.time("now");
      const outputs = ["dh1", "dh2", "dh3"].map((name) => fields.bytes(name));
      const dh4 = fields.nullableBytes("dh4");
      if (dh4 !== null) outputs.push(dh4);
      const secret = fields.bytes("shared_secret");
      const initiation = fields.bytes("initiation");
      const sessionId = fields.bytes("session_id");
      checks.equal("suite", 1, fields.number("suite"));
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
      checks.equal("the initiator's secret", x3dhSecret(primitives, ofA), secret);
      const { random } = scriptedRandom([ephemeral.privateKey, RATCHET_KEY]);
      const session = startSession(primitives, a, bundle, { now, random });
      checks.equal("session_id", session.id, sessionId);
      checks.equal("initiation", session.unanswered?.initiation, initiation);

      const read = decodeInitiation(initiation);
      checks.equal("signed prekey's id", read.signedPrekeyId, bundle.signedPrekey.id);
      checks.equal("one-time prekey's id", read.oneTimePrekeyId, bundle.oneTimePrekey?.id ?? null);
      checks.equal("the responder's session_id", sessionIdOf(primitives, read, bundle.identityKey), sessionId);
      const ofB = responderOutputs(primitives, responder.identity, responder.pairs, read);
      checks.equal("the responder's outputs", ofB, outputs);
      checks.equal("the responder's secret", x3dhSecret(primitives, ofB), secret);
    },
  };
}

function refusedCase(value: unknown, index: number): Case {
  const side = new Fields(value).string("side");
  return {
    name: `refused ${index}: ${new Fields(value).string("key")} at the ${side}`,
    run: (primitives, checks) => {
      const fields = new Fields(value);
      const a = identityFromSeed(primitives, fields.bytes("initiator_seed"));
      const b = identityFromSeed(primitives, fields.bytes("responder_seed"));
      const refused = fields.bytes("value");
      const key = fields.string("key");
      const now = fields.time("now");
      const error = fields.string("error");
      if (fields.string("side") === "initiator") {
        const bundle = bundleOf(b, fields);
        const named = key === "signed_prekey" ? bundle.signedPrekey.publicKey : bundle.oneTimePrekey?.publicKey;
        checks.equal(key, named, refused);
        const { random } = scriptedRandom([fields.bytes("ephemeral_private_key"), RATCHET_KEY]);
        checks.refuses(() => initiate(primitives, a, unknownPeer(b.agentId), bundle, { now, random }), [error]);
      } else {
        checks.equal("key", key, "ephemeral_key");
        const signedPrekey = x25519PairFrom(primitives, fields.bytes("signed_prekey_private_key"));
        const names = { identityKey: a.signing.publicKey, ephemeralKey: refused };
        const ids = { signedPrekeyId: SOME_ID, oneTimePrekeyId: null };
        const answer = () =>
          answerSession(primitives, b, { signedPrekey, oneTimePrekey: null }, EMPTY, { suite: 1, ...names, ...ids });
        checks.refuses(answer, [error]);
      }
      fields.end();
    },
  };
}

function bundleOf(b: Identity, fields: Fields): Bundle {
  const oneTimeKey = fields.nullableBytes("one_time_prekey");
  return {
    agentId: b.agentId,
    identityKey: b.signing.publicKey,
    signedPrekey: {
      id: fields.string("signed_prekey_id"),
      createdAt: fields.time("signed_prekey_created_at"),
      publicKey: fields.bytes("signed_prekey"),
      signature: fields.bytes("signed_prekey_signature"),
    },
    oneTimePrekey: oneTimeKey === null ? null : { id: SOME_ID, publicKey: oneTimeKey },
    kemPrekey: null,
  };
}

/** An agent of a vector, by its seed. */
export function identityOf(primitives: Primitives, fields: Fields, checks: Checks): Identity {
  const identity = identityFromSeed(primitives, fields.bytes("seed"));
  checks.equal("identity_key", identity.signing.publicKey, fields.bytes("identity_key"));
  checks.equal("agent_id", identity.agentId, fields.string("agent_id"));
  return identity;
}

/** A signed prekey of a vector, with both halves. */
export function signedPrekeyOf(
  primitives: Primitives,
  owner: Identity,
  fields: Fields,
  checks: Checks,
): [SignedPrekey, KeyPair] {
  const pair = pairOf(primitives, fields, "private_key", "public_key", checks);
  const id = fields.string("id");
  const createdAt = fields.time("created_at");
  const prekey = { id, createdAt, publicKey: pair.publicKey, signature: fields.bytes("signature") };
  const { publicKey } = owner.signing;
  checks.equal("signature", isPrekeySignatureValid(primitives, publicKey, "signed-prekey", prekey), true);
  fields.end();
  return [prekey, pair];
}

/** A one-time prekey of a vector, with both halves. */
export function oneTimePrekeyOf(primitives: Primitives, fields: Fields, checks: Checks): [OneTimePrekey, KeyPair] {
  const pair = pairOf(primitives, fields, "private_key", "public_key", checks);
  const prekey = { id: fields.string("id"), publicKey: pair.publicKey };
  fields.end();
  return [prekey, pair];
}

function responderOf(primitives: Primitives, fields: Fields, checks: Checks) {
  const identity = identityOf(primitives, fields, checks);
  const [signedPrekey, signedPair] = signedPrekeyOf(primitives, identity, fields.fields("signed_prekey"), checks);
  const oneTime = fields.nullableFields("one_time_prekey");
  const [oneTimePrekey, oneTimePair] = oneTime === null ? [null, null] : oneTimePrekeyOf(primitives, oneTime, checks);
  if (fields.value("kem_prekey") !== null) throw new Mismatch("suite 1 has no KEM prekey");
  fields.end();
  const bundle: Bundle = {
    agentId: identity.agentId,
    identityKey: identity.signing.publicKey,
    signedPrekey,
    oneTimePrekey,
    kemPrekey: null,
  };
  return { identity, bundle, pairs: { signedPrekey: signedPair, oneTimePrekey: oneTimePair } };
}

function pairOf(
  primitives: Primitives,
  fields: Fields,
  privateName: string,
  publicName: string,
  checks: Checks,
): KeyPair {
  const pair = x25519PairFrom(primitives, fields.bytes(privateName));
  checks.equal(publicName, pair.publicKey, fields.bytes(publicName));
  return pair;
}
