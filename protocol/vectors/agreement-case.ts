import { decodeInitiation } from "../initiation.ts";
import { initiatorOutputs, responderOutputs, sessionIdOf, x3dhSecret } from "../key-agreement.ts";
import { checkBundle } from "../prekeys.ts";
import { startSession } from "../session.ts";
import { identityOf, pairOf, responderOf } from "./agents.ts";
import { type Case, Fields, scriptedRandom } from "./case.ts";

/** Any ratchet key: these vectors end with the shared secret. */
export const RATCHET_KEY = new Uint8Array(32).fill(7);

export function agreementCase(value: unknown): Case {
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
