/** Registration, and what an agent publishes for those who begin a session with it. */
import { decodeBase64Url, encodeBase64Url } from "../../../protocol/base64url.ts";
import { bundleToJson } from "../../../protocol/prekeys.ts";
import { formatTimestamp, parseTimestamp } from "../../../protocol/timestamp.ts";
import { claimBundle } from "../../operations/claim-bundle.ts";
import { registerAgent } from "../../operations/register-agent.ts";
import { uploadPrekeys } from "../../operations/upload-prekeys.ts";
import { ApiRefusal } from "../../problem.ts";
import { type HttpDeps, type Reply, type Request, route } from "../route.ts";
import {
  agentAnswer,
  bundleAnswer,
  prekeysPath,
  registerBody,
  uploadPrekeysAnswer,
  uploadPrekeysBody,
} from "../schemas.ts";

export const register = route({
  method: "POST",
  path: "/messaging/agents",
  operationId: "registerAgent",
  summary: "Register an agent",
  description: "Signed by the very key it registers; keyid is that key's thumbprint. Again changes nothing.",
  signedBy: "key-in-body",
  needsRedis: true,
  request: { body: registerBody },
  answers: {
    201: { description: "Registered", schema: agentAnswer },
    200: { description: "It was registered already", schema: agentAnswer },
  },
  refuses: ["identity-key-invalid"],
  handle: async (deps, { caller, body }) => {
    const { agent, created } = await registerAgent(deps, caller, { custody: body.custody ?? "agent" });
    return {
      status: created ? 201 : 200,
      json: {
        agent_id: agent.agentId,
        identity_key: encodeBase64Url(agent.identityKey),
        custody: agent.custody,
        status: agent.status,
        created_at: formatTimestamp(agent.createdAt),
      },
    };
  },
});

export const upload = route({
  method: "POST",
  path: "/messaging/upload-prekeys",
  operationId: "uploadPrekeys",
  summary: "Publish prekeys",
  description: "All of a call or nothing. A new signed prekey replaces the older one in new bundles.",
  signedBy: "agent",
  needsRedis: true,
  request: { body: uploadPrekeysBody },
  answers: { 200: { description: "Stored", schema: uploadPrekeysAnswer } },
  refuses: ["prekey-signature-invalid", "prekey-conflict", "too-many"],
  handle: async (deps, { caller, body: { signed_prekey: signed, one_time_prekeys: oneTime = [] } }) => {
    const { oneTimePrekeysRemaining } = await uploadPrekeys(deps, caller, {
      ...(signed === undefined
        ? {}
        : {
            signedPrekey: {
              id: signed.id,
              createdAt: checkedTime(signed.created_at),
              publicKey: checkedBytes(signed.public_key),
              signature: checkedBytes(signed.signature),
            },
          }),
      oneTimePrekeys: oneTime.map(({ id, public_key }) => ({
        id,
        publicKey: checkedBytes(public_key),
      })),
    });
    return {
      status: 200,
      json: {
        one_time_prekeys_remaining: oneTimePrekeysRemaining,
        ...(signed === undefined ? {} : { signed_prekey_id: signed.id }),
      },
    };
  },
});

const claim = {
  path: "/messaging/prekeys/{recipient}",
  summary: "Claim a bundle for one initiation",
  description:
    "Takes a one-time prekey that nobody else gets. The same Idempotency-Key (default: the signature's nonce) again is answered with the same bundle.",
  signedBy: "agent",
  needsRedis: true,
  request: {
    path: prekeysPath,
    headers: { "Idempotency-Key": "Names the request, 1 to 200 characters, quoted or bare" },
  },
  answers: { 200: { description: "Claimed", schema: bundleAnswer } },
  refuses: ["recipient-unknown", "prekeys-unavailable"],
  handle: claimed,
} as const;

export const claimByGet = route({ ...claim, method: "GET", operationId: "claimBundle" });

export const claimByPost = route({ ...claim, method: "POST", operationId: "claimBundleByPost" });

async function claimed(
  deps: HttpDeps,
  { caller, path, headers }: Request<{ recipient: string }, unknown, unknown>,
): Promise<Reply> {
  const { oneTimePrekeysRemaining, ...bundle } = await claimBundle(deps, caller, {
    targetId: path.recipient,
    requestId: requestIdOf(headers["idempotency-key"], caller.nonce),
  });
  return {
    status: 200,
    json: {
      bundle: bundleToJson({ ...bundle, kemPrekey: null }),
      one_time_prekeys_remaining: oneTimePrekeysRemaining,
    },
  };
}

/** Text without quotes, backslashes and control characters, alone or in quotes. */
const IDEMPOTENCY_KEY = /^(?:"([\x20\x21\x23-\x5b\x5d-\x7e]{1,200})"|([\x21\x23-\x2b\x2d-\x5b\x5d-\x7e]{1,200}))$/;

/** Prefixed, so that no key of one request is the nonce of another. */
function requestIdOf(key: string | string[] | undefined, nonce: string): string {
  if (key === undefined) return `nonce:${nonce}`;
  const match = typeof key === "string" ? IDEMPOTENCY_KEY.exec(key) : null;
  if (match === null) {
    throw new ApiRefusal("malformed", {
      field: "Idempotency-Key",
      detail: "not a key of 1 to 200 characters",
      fix: 'Send one text of printable ASCII in quotes, such as Idempotency-Key: "6f1c…".',
    });
  }
  return `key:${match[1] ?? match[2]}`;
}

function checkedBytes(text: string): Uint8Array {
  const bytes = decodeBase64Url(text);
  if (bytes === null) throw new Error("the schema let something through that is not base64url");
  return bytes;
}

function checkedTime(text: string): number {
  const ms = parseTimestamp(text);
  if (ms === null) throw new Error("the schema let something through that is not a time");
  return ms;
}
