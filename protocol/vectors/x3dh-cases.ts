import { EMPTY } from "../bytes.ts";
import { type Identity, identityFromSeed } from "../identity.ts";
import { initiate, unknownPeer } from "../peer.ts";
import type { Bundle } from "../prekeys.ts";
import { x25519PairFrom } from "../primitives/primitives.ts";
import { answerSession } from "../session.ts";
import { agreementCase, RATCHET_KEY } from "./agreement-case.ts";
import { type Case, Fields, scriptedRandom } from "./case.ts";

/** Stands where an id does not matter. */
const SOME_ID = "00000000-0000-4000-8000-000000000000";

export function x3dhCases(file: Fields): Case[] {
  return [...file.list("cases").map((value) => agreementCase(1, value)), ...file.list("refused").map(refusedCase)];
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
        const prekeys = { signedPrekey, oneTimePrekey: null, kem: null };
        const names = { identityKey: a.signing.publicKey, ephemeralKey: refused };
        const ids = { signedPrekeyId: SOME_ID, oneTimePrekeyId: null };
        const answer = () => answerSession(primitives, b, prekeys, EMPTY, { suite: 1, ...names, ...ids });
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
