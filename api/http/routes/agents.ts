/** Registration, and what an agent publishes for those who begin a session with it. */
import { encodeBase64Url } from "../../../protocol/base64url.ts";
import { bundleToJson, type SignedPrekey } from "../../../protocol/prekeys.ts";
import { formatTimestamp } from "../../../protocol/timestamp.ts";
import { claimBundle } from "../../operations/claim-bundle.ts";
import { ownPrekeys } from "../../operations/own-prekeys.ts";
import { registerAgent } from "../../operations/register-agent.ts";
import { registerHeldAgent } from "../../operations/register-held-agent.ts";
import { uploadPrekeys } from "../../operations/upload-prekeys.ts";
import { ApiRefusal } from "../../problem.ts";
import { agentAnswer, registerBody } from "../agent-schemas.ts";
import {
  bundleAnswer,
  ownPrekeysAnswer,
  prekeysPath,
  uploadPrekeysAnswer,
  uploadPrekeysBody,
} from "../prekey-schemas.ts";
import { type HttpDeps, type Reply, type Request, route } from "../route.ts";
import { checkedBytes, checkedTime } from "../validation.ts";

export const register = route({
  method: "POST",
  path: "/messaging/agents",
  operationId: "registerAgent",
  summary: "Register an agent",
  description:
    "Signed by the very key it registers; keyid is that key's thumbprint. Unless the operator has opened the registration, an owner answers for the agent (owner_statement), for good. Again changes nothing. With custody server the service makes and holds the agent's keys, and its operator can read the agent's messages: later calls are signed by the access key with the answered agent_id as keyid.",
  signedBy: "key-in-body",
  needsRedis: true,
  request: { body: registerBody },
  answers: {
    201: { description: "Registered", schema: agentAnswer },
    200: { description: "It was registered already", schema: agentAnswer },
  },
  refuses: [
    "identity-key-invalid",
    "custody-unavailable",
    "registration-closed",
    "owner-statement-missing",
    "owner-statement-invalid",
    "owner-mismatch",
  ],
  handle: async (deps, { caller, body }) => {
    const { owner_statement: ownerStatement = null } = body;
    const { agent, created, owner } =
      body.custody === "server"
        ? await registerHeldAgent(deps, { keyId: caller.agentId, key: caller.identityKey }, ownerStatement)
        : await registerAgent(deps, caller, { custody: "agent", ownerStatement });
    return {
      status: created ? 201 : 200,
      json: {
        agent_id: agent.agentId,
        identity_key: encodeBase64Url(agent.identityKey),
        custody: agent.custody,
        readable_by: agent.custody === "agent" ? "agent" : "agent-and-operator",
        status: agent.status,
        created_at: formatTimestamp(agent.createdAt),
        ...(owner === null ? {} : { owner: { issuer: owner.issuer, subject: owner.subject } }),
      },
    };
  },
});

export const upload = route({
  method: "POST",
  path: "/messaging/upload-prekeys",
  operationId: "uploadPrekeys",
  summary: "Publish prekeys",
  description:
    "All of a call or nothing. A new signed prekey, or KEM prekey of last resort, replaces the older one in new bundles.",
  signedBy: "agent",
  needsRedis: true,
  request: { body: uploadPrekeysBody },
  answers: { 200: { description: "Stored", schema: uploadPrekeysAnswer } },
  refuses: ["custody-mismatch", "prekey-signature-invalid", "prekey-conflict", "too-many", "rate-limited"],
  handle: async (deps, { caller, body }) => {
    const { signed_prekey: signed, last_resort_kem_prekey: lastResort } = body;
    const { one_time_prekeys: oneTime = [], kem_prekeys: kem = [] } = body;
    const { oneTimePrekeysRemaining, kemPrekeysRemaining } = await uploadPrekeys(deps, caller, {
      ...(signed === undefined ? {} : { signedPrekey: signedPrekeyOf(signed) }),
      ...(lastResort === undefined ? {} : { lastResortKemPrekey: { ...signedPrekeyOf(lastResort), lastResort: true } }),
      oneTimePrekeys: oneTime.map(({ id, public_key }) => ({ id, publicKey: checkedBytes(public_key) })),
      kemPrekeys: kem.map((prekey) => ({ ...signedPrekeyOf(prekey), lastResort: false })),
      replace: body.replace ?? false,
    });
    return {
      status: 200,
      json: {
        one_time_prekeys_remaining: oneTimePrekeysRemaining,
        kem_prekeys_remaining: kemPrekeysRemaining,
        ...(signed === undefined ? {} : { signed_prekey_id: signed.id }),
      },
    };
  },
});

export const own = route({
  method: "GET",
  path: "/messaging/prekeys",
  operationId: "ownPrekeys",
  summary: "See what the service holds of one's own prekeys",
  description:
    "Counts, ages, and a digest over everything that can be handed out: an agent that computes another one has lost something.",
  signedBy: "agent",
  // Up to 2,000 keys are read and hashed.
  cost: 20,
  request: {},
  answers: { 200: { description: "The stock of this moment", schema: ownPrekeysAnswer } },
  refuses: [],
  handle: async (deps, { caller }) => {
    const { signedPrekey, lastResortKemPrekey, signedPrekeyAgeS, ...stock } = await ownPrekeys(deps, caller);
    return {
      status: 200,
      json: {
        agent_id: caller.agentId,
        ...(signedPrekey === null ? {} : { signed_prekey: stockedPrekeyOf(signedPrekey) }),
        ...(lastResortKemPrekey === null ? {} : { last_resort_kem_prekey: stockedPrekeyOf(lastResortKemPrekey) }),
        one_time_prekeys: stock.oneTimePrekeysRemaining,
        kem_prekeys: stock.kemPrekeysRemaining,
        ...(signedPrekeyAgeS === null ? {} : { signed_prekey_age_seconds: signedPrekeyAgeS }),
        rotation_due: stock.rotationDue,
        digest: encodeBase64Url(stock.digest),
      },
    };
  },
});

const claim = {
  path: "/messaging/prekeys/{recipient}",
  summary: "Claim a bundle for one initiation",
  description:
    "Takes one-time prekeys that nobody else gets. The same Idempotency-Key (default: the signature's nonce) again is answered with the same bundle.",
  signedBy: "agent",
  needsRedis: true,
  request: {
    path: prekeysPath,
    headers: { "Idempotency-Key": "Names the request, 1 to 200 characters, quoted or bare" },
  },
  answers: { 200: { description: "Claimed", schema: bundleAnswer } },
  refuses: ["recipient-unknown", "not-allowed", "prekeys-unavailable", "rate-limited"],
  handle: claimed,
} as const;

export const claimByGet = route({ ...claim, method: "GET", operationId: "claimBundle" });

export const claimByPost = route({ ...claim, method: "POST", operationId: "claimBundleByPost" });

async function claimed(
  deps: HttpDeps,
  { caller, path, headers }: Request<{ recipient: string }, unknown, unknown>,
): Promise<Reply> {
  const { bundle, oneTimePrekeysRemaining, kemPrekeysRemaining } = await claimBundle(deps, caller, {
    targetId: path.recipient,
    requestId: requestIdOf(headers["idempotency-key"], caller.nonce),
  });
  return {
    status: 200,
    json: {
      bundle: bundleToJson(bundle),
      one_time_prekeys_remaining: oneTimePrekeysRemaining,
      kem_prekeys_remaining: kemPrekeysRemaining,
      last_resort: bundle.oneTimePrekey === null || bundle.kemPrekey?.lastResort === true,
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

function signedPrekeyOf(json: {
  readonly id: string;
  readonly created_at: string;
  readonly public_key: string;
  readonly signature: string;
}): SignedPrekey {
  return {
    id: json.id,
    createdAt: checkedTime(json.created_at),
    publicKey: checkedBytes(json.public_key),
    signature: checkedBytes(json.signature),
  };
}

function stockedPrekeyOf({ id, createdAt }: { readonly id: string; readonly createdAt: number }) {
  return { id, created_at: formatTimestamp(createdAt) };
}
