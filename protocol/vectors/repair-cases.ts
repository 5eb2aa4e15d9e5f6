import { identityFromSeed } from "../identity.ts";
import {
  checkRetryRequest,
  makeRetryRequest,
  retryRequestFromJson,
  retryRequestToJson,
  retrySignedBytes,
} from "../retry-request.ts";
import { type Case, Fields, refusalOf } from "./case.ts";

export function repairCases(file: Fields): Case[] {
  return [...file.list("requests").map(requestCase), ...file.list("malformed_requests").map(malformedCase)];
}

function requestCase(value: unknown, index: number): Case {
  return {
    name: `request ${index}: ${new Fields(value).comment("reason")}`,
    run: (primitives, checks) => {
      const fields = new Fields(value);
      const me = identityFromSeed(primitives, fields.bytes("recipient_seed"));
      const recipientIdentityKey = fields.bytes("recipient_identity_key");
      checks.equal("recipient_identity_key", me.signing.publicKey, recipientIdentityKey);
      const facts = {
        senderId: fields.string("sender_id"),
        recipientId: fields.string("recipient_id"),
        messageId: fields.string("message_id"),
        sessionId: fields.bytes("session_id"),
        dhPublicKey: fields.bytes("dh_public_key"),
        time: fields.time("time"),
      };
      const signature = fields.bytes("signature");
      checks.equal("signed_bytes", retrySignedBytes(facts), fields.bytes("signed_bytes"));
      const json = fields.value("request");
      const request = retryRequestFromJson(json);
      checks.equal("the request read", request, { ...facts, signature });
      checks.equal("the request written", retryRequestToJson(request), json);
      const now = fields.time("now");
      const valid = fields.boolean("valid");
      const refusal = refusalOf(() => checkRetryRequest(primitives, request, { recipientIdentityKey, now }));
      checks.equal("valid", refusal === null, valid);
      if (valid) {
        checks.equal("the request made anew", makeRetryRequest(primitives, me, facts, facts.time), request);
      }
      fields.comment("reason");
      fields.end();
    },
  };
}

function malformedCase(value: unknown, index: number): Case {
  return {
    name: `malformed request ${index}: ${new Fields(value).comment("reason")}`,
    run: (primitives, checks) => {
      const fields = new Fields(value);
      const json = fields.value("request");
      const recipientIdentityKey = fields.bytes("recipient_identity_key");
      const now = fields.time("now");
      const follow = () => checkRetryRequest(primitives, retryRequestFromJson(json), { recipientIdentityKey, now });
      checks.refuses(follow, ["malformed"]);
      fields.comment("reason");
      fields.end();
    },
  };
}
