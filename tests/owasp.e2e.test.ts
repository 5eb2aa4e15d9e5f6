/**
 * One agent against everything of another's, over the real service and its stores, in both custodies (docs/security-tests.md). The attackers are blocked by
 * their victims; every attack has its row for every signed call that is served.
 */
import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { routes } from "../api/http/routes.ts";
import { encodeBase64Url } from "../protocol/base64url.ts";
import { makeMessageId } from "../protocol/message-id.ts";
import { nodeRandom } from "../protocol/primitives/node.ts";
import { messageEncrypted, messageReceipt, messageSend } from "../streams/catalogue.ts";
import { chainOf } from "./delegations.ts";
import { HeldAgent } from "./held-agent.ts";
import { consumerParts, eventually, type House, openHouse } from "./house.ts";
import { jsonOf, someEnvelope } from "./in-memory-service.ts";
import { keyOf, retryOf, uploadOf } from "./owasp/examples-agents.ts";
import { type Ask, type Signer, type Told, told } from "./owasp/world.ts";
import { certified } from "./owners.ts";
import { newIdentity, sendSigned, signed } from "./signing.ts";

type Name = "agent" | "server";

/** What it has, and how it is known again. */
interface Victim extends Signer {
  readonly deviceId: string;
  readonly keyId: string;
  readonly jti: string;
  /** The id of what the third sent to it. */
  readonly messageId: string;
  readonly secrets: readonly string[];
}

const SAID = "what the third said to the held victim";

let house: House;
let url: string;
let third: Signer;
const victims = new Map<Name, Victim>();
const attackers = new Map<Name, Signer>();

const victimOf = (name: Name) => victims.get(name) as Victim;
const attackerOf = (name: Name) => attackers.get(name) as Signer;

/** Asks again while the memory of nonces is young. */
async function ask({ as, method, path, body, headers = {} }: Ask): Promise<Told> {
  const call = { method, url: url + path, headers, ...(body === undefined ? {} : { body }) };
  const { identity, keyid } = as as Signer;
  for (;;) {
    const answer = await told(await sendSigned(await signed(identity, call, { keyid })));
    if (answer.status !== 503 && answer.json?.code !== "sign-again") return answer;
    await new Promise((resolve) => setTimeout(resolve, 250));
  }
}

async function done(some: Ask): Promise<Told> {
  const answer = await ask(some);
  expect(answer.status, `${some.path}: ${answer.text}`).toBeLessThan(300);
  return answer;
}

async function registered(): Promise<Signer> {
  const identity = newIdentity();
  const as = { identity, keyid: identity.agentId };
  await done({ method: "POST", path: "/messaging/agents", as, body: { identity_key: keyOf(as) } });
  await done({ method: "POST", path: "/messaging/upload-prekeys", as, body: uploadOf(as) });
  return as;
}

async function held(): Promise<HeldAgent> {
  const agent = new HeldAgent(url);
  expect((await agent.register()).status).toBe(201);
  return agent;
}

const signerOf = (agent: HeldAgent): Signer => ({ identity: agent.access, keyid: agent.id });

async function furnished(as: Signer, messageId: string): Promise<Victim> {
  const [deviceId, worker, jti] = [randomUUID(), newIdentity(), randomUUID()];
  const address = `https://${deviceId.slice(0, 8)}.example.com/wake`;
  const put = (path: string, body?: unknown) =>
    done({ method: "PUT", path, as, ...(body === undefined ? {} : { body }) });
  await put(`/messaging/devices/${deviceId}`, { kind: "webhook", url: address });
  await put(`/messaging/signing-keys/${worker.agentId}`, certified(as.identity, worker, { agentId: as.keyid }));
  for (const attacker of attackers.values()) await put(`/messaging/policy/block/${attacker.keyid}`);
  await done({ method: "POST", path: `/messaging/contacts/${as.keyid}`, as: third });
  const secrets = [deviceId, address, worker.agentId, messageId, third.keyid];
  return { ...as, deviceId, keyId: worker.agentId, jti, messageId, secrets };
}

beforeAll(async () => {
  house = await openHouse();
  ({ url } = await house.start({ roles: ["api"], prepare: true }));
  await house.start({ roles: consumerParts });
  const [heldThird, heldVictim, heldAttacker] = [await held(), await held(), await held()];
  attackers.set("agent", await registered()).set("server", signerOf(heldAttacker));
  third = await registered();
  const victim = await registered();
  const envelope = someEnvelope(third.keyid, victim.keyid);
  await done({ method: "POST", path: "/messaging/send", as: third, body: { envelopes: [jsonOf(envelope)] } });
  const [said = ""] = await heldThird.send(heldVictim.id, [SAID]);
  victims.set("agent", await furnished(victim, envelope.messageId));
  victims.set("server", await furnished(signerOf(heldVictim), said));
  await eventually("the victims' mail has come", async () => {
    const { json } = await done({ method: "GET", path: "/messaging/receive", as: victim });
    return json.items.length === 1 && (await heldVictim.open()).messages.length === 1;
  });
}, 180_000);

afterAll(() => house?.close());

/** Everything that a victim sees of its own. */
async function viewOf(name: Name): Promise<unknown> {
  const victim = victimOf(name);
  const paths = [
    ...["/messaging/devices", "/messaging/signing-keys", "/messaging/policy", "/messaging/policy/block"],
    ...["/messaging/contacts?state=pending", "/messaging/contacts?state=accepted", "/messaging/sessions"],
    ...(name === "agent" ? ["/messaging/prekeys", "/messaging/receive"] : []),
  ];
  const views = await Promise.all(paths.map((path) => done({ method: "GET", path, as: victim })));
  const opened =
    name === "server" ? [(await done({ method: "POST", path: "/messaging/open", as: victim, body: {} })).json] : [];
  return [...views.map(({ json: { signed_prekey_age_seconds: _, ...json } }) => json), ...opened];
}

/** A call, and the codes of which it is answered one; `taken`: it is the caller's own, and shows and changes nothing of the victim's. */
type Row = readonly [call: Omit<Ask, "as">, codes: readonly string[]];

const get = (path: string, ...codes: readonly string[]): Row => [{ method: "GET", path }, codes];
const post = (path: string, body: unknown, ...codes: readonly string[]): Row => [
  { method: "POST", path, ...(body === undefined ? {} : { body }) },
  codes,
];
const put = (path: string, body: unknown, ...codes: readonly string[]): Row => [
  { method: "PUT", path, ...(body === undefined ? {} : { body }) },
  codes,
];
const del = (path: string, ...codes: readonly string[]): Row => [{ method: "DELETE", path }, codes];

const because = { reason: "because" };
const byHeldOnly = ["custody-mismatch", "not-allowed"];

function rowsOf(victim: Victim, me: Signer): Readonly<Record<string, readonly Row[]>> {
  const { keyid, deviceId, keyId, jti, messageId } = victim;
  const item = { sender_id: third.keyid, message_id: messageId };
  const own = { message_id: makeMessageId(Date.now(), nodeRandom), recipient_id: keyid };
  const forged = certified(victim.identity, newIdentity(), { agentId: keyid });
  const owners = (verb: string) => [post(`/owners/agents/${keyid}/${verb}`, because, "owner-unknown")];
  return {
    registerAgent: [
      post("/messaging/agents", { identity_key: keyOf(victim) }, "signature-invalid"),
      post("/messaging/agents", { custody: "server", access_key: keyOf(victim) }, "signature-invalid"),
    ],
    uploadPrekeys: [
      post("/messaging/upload-prekeys", uploadOf(victim), "prekey-signature-invalid", "custody-mismatch"),
    ],
    ownPrekeys: [get("/messaging/prekeys", "taken"), get(`/messaging/prekeys?agent_id=${keyid}`, "malformed")],
    claimBundle: [get(`/messaging/prekeys/${keyid}`, "not-allowed")],
    claimBundleByPost: [post(`/messaging/prekeys/${keyid}`, undefined, "not-allowed")],
    send: [
      post(
        "/messaging/send",
        { envelopes: [jsonOf(someEnvelope(keyid, third.keyid))] },
        "sender-mismatch",
        "custody-mismatch",
      ),
      post(
        "/messaging/send",
        { envelopes: [jsonOf(someEnvelope(me.keyid, keyid))] },
        "not-allowed",
        "custody-mismatch",
      ),
    ],
    ingressKey: [get("/messaging/ingress-key", "taken", "custody-mismatch")],
    sendMessages: [
      post("/messaging/messages", { messages: [{ ...own, content_type: "text/plain", body: "aGk" }] }, ...byHeldOnly),
    ],
    openMessages: [post("/messaging/open", {}, "taken", "custody-mismatch")],
    beginSession: [post("/messaging/sessions", { peer_id: keyid }, ...byHeldOnly)],
    receive: [get("/messaging/receive", "taken"), get(`/messaging/receive?recipient_id=${keyid}`, "malformed")],
    acknowledge: [
      post("/messaging/acknowledge", { items: [item, { seq: 1 }] }, "taken"),
      post("/messaging/acknowledge", { items: [{ ...item, refused: "auth-failed" }] }, "taken"),
    ],
    messageStatus: [
      get(`/messaging/messages/${messageId}?sender=${third.keyid}`, "message-unknown"),
      get(`/messaging/messages/${messageId}`, "message-unknown"),
    ],
    messageStatuses: [post("/messaging/messages/status", { messages: [item] }, "taken")],
    requestRetry: [
      post("/messaging/retry-requests", retryOf(me, third, messageId), "message-unknown", "retry-signature-invalid"),
      post("/messaging/retry-requests", retryOf(victim, third, messageId), "retry-mismatch"),
    ],
    sentSessions: [get("/messaging/sessions", "taken")],
    pairSessions: [get(`/messaging/sessions/${third.keyid}`, "taken"), get(`/messaging/sessions/${keyid}`, "taken")],
    listDevices: [get("/messaging/devices", "taken")],
    deleteDevice: [del(`/messaging/devices/${deviceId}`, "taken")],
    putDevice: [
      put(`/messaging/devices/${deviceId}`, { kind: "webhook", url: "https://evil.example.com/" }, "taken"),
      put(`/messaging/devices/${deviceId}`, { kind: "webhook", url: "https://127.0.0.1/" }, "webhook-refused"),
      // Its own of the same id.
      del(`/messaging/devices/${deviceId}`, "taken"),
    ],
    ownUsage: [get("/messaging/usage", "taken"), get(`/messaging/usage?agent_id=${keyid}`, "malformed")],
    getPolicy: [get("/messaging/policy", "taken")],
    putPolicy: [put("/messaging/policy", { policy: "open" }, "taken")],
    listedAgents: [get("/messaging/policy/block", "taken")],
    listAgent: [put(`/messaging/policy/allow/${keyid}`, undefined, "taken")],
    unlistAgent: [del(`/messaging/policy/block/${me.keyid}`, "taken", "malformed")],
    listContacts: [get("/messaging/contacts?state=pending", "taken")],
    requestContact: [post(`/messaging/contacts/${keyid}`, undefined, "not-allowed")],
    acceptContact: [post(`/messaging/contacts/${third.keyid}/accept`, undefined, "contact-unknown")],
    declineContact: [post(`/messaging/contacts/${third.keyid}/decline`, undefined, "contact-unknown")],
    removeContact: [del(`/messaging/contacts/${third.keyid}`, "taken"), del(`/messaging/contacts/${keyid}`, "taken")],
    revokeDelegation: [post(`/messaging/delegations/${jti}/revoke`, undefined, "taken")],
    putSigningKey: [put(`/messaging/signing-keys/${keyId}`, forged, "signing-key-invalid")],
    deleteSigningKey: [del(`/messaging/signing-keys/${keyId}`, "taken")],
    listSigningKeys: [get("/messaging/signing-keys", "taken")],
    listOwnAgents: [get("/owners/agents", "owner-unknown")],
    suspendOwnAgent: owners("suspend"),
    resumeOwnAgent: owners("resume"),
    revokeOwnAgent: owners("revoke"),
  };
}

/** It answers as long as it is open: owasp.test.ts of the stream looks into it. */
const STREAMED = ["events"];

test("every signed call has its row", () => {
  const served = routes.filter(({ signedBy }) => signedBy !== "nobody").map(({ operationId }) => operationId);
  expect(served.length).toBeGreaterThan(30);
  const { identity, keyid } = attackerOf("agent");
  const rows = rowsOf(victimOf("agent"), { identity, keyid });
  expect([...Object.keys(rows), ...STREAMED].toSorted()).toEqual(served.toSorted());
});

const pairs: readonly (readonly [Name, Name])[] = [
  ["agent", "agent"],
  ["agent", "server"],
  ["server", "agent"],
  ["server", "server"],
];

describe.each(pairs)("an attacker of %s custody, a victim of %s custody", (attacking, attacked) => {
  test("no call shows or changes anything of the victim's", async () => {
    const [victim, me] = [victimOf(attacked), attackerOf(attacking)];
    const before = await viewOf(attacked);
    let judged = 0;
    for (const [name, rows] of Object.entries(rowsOf(victim, me))) {
      for (const [call, codes] of rows) {
        const answer = await ask({ ...call, as: me });
        const what = answer.status < 300 ? "taken" : (answer.json?.code ?? answer.status);
        expect(codes, `${name} ${call.path}: ${answer.text}`).toContain(what);
        expectNothingOf(victim, call, answer, name);
        judged += 1;
      }
    }
    expect(judged).toBeGreaterThan(45);
    const [received, encrypted, sent] = [[messageReceipt], [messageEncrypted], [messageSend]];
    await eventually("what went into the log has been applied", async () => {
      const counts = [
        house.behind("encryption", sent),
        house.behind("queuing", encrypted),
        house.behind("acks", received),
      ];
      return (await Promise.all(counts)).every((count) => count === 0);
    });
    expect(await viewOf(attacked)).toEqual(before);
  });

  test("nobody speaks for the victim: not by its id, nor by its signing key's, nor under a chain", async () => {
    const [victim, me] = [victimOf(attacked), attackerOf(attacking)];
    const poll = { method: "GET", path: "/messaging/devices" };
    const codeOf = async (call: Ask) => (await ask(call)).json.code;
    expect(await codeOf({ ...poll, as: { identity: me.identity, keyid: victim.keyid } })).toBe("signature-invalid");
    expect(await codeOf({ ...poll, as: { identity: me.identity, keyid: victim.keyId } })).toBe("signature-invalid");
    const audience = new URL(url).host;
    const named = { sub: me.keyid, cnf: { jkt: me.identity.agentId } };
    const [issuer, jti] = [{ ...victim.identity, agentId: victim.keyid }, randomUUID()];
    const chain = chainOf([issuer, me.identity], audience, [{ ...named, jti }]);
    const presenting = { ...poll, as: me, headers: { "sealpost-delegation": chain } };
    // It holds, and opens nothing of its principal's.
    const answer = await done(presenting);
    expectNothingOf(victim, poll, answer, "listDevices");
    for (const changes of [{ exp: 1_000, iat: 900 }, { aud: "elsewhere.example" }, { sub: third.keyid }]) {
      const wrong = chainOf([issuer, me.identity], audience, [{ ...named, ...changes }]);
      expect(await codeOf({ ...presenting, headers: { "sealpost-delegation": wrong } })).toBe("delegation-refused");
    }
    await done({ method: "POST", path: `/messaging/delegations/${jti}/revoke`, as: me });
    await done(presenting);
    await done({ method: "POST", path: `/messaging/delegations/${jti}/revoke`, as: victim });
    await eventually("the chain is revoked", async () => (await ask(presenting)).json?.code === "delegation-refused");
  });
});

/** What the attacker has named itself may stand in its answer. */
function expectNothingOf(victim: Victim, call: Omit<Ask, "as">, { text }: Told, name: string): void {
  const said = JSON.stringify(call);
  const needles = [...victim.secrets, SAID, encodeBase64Url(Buffer.from(SAID))].filter((one) => !said.includes(one));
  expect(needles.length).toBeGreaterThan(3);
  expect(
    needles.filter((needle) => text.includes(needle)),
    name,
  ).toEqual([]);
}
