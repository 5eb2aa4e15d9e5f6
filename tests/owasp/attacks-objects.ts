/**
 * API1: things of other agents. What is somebody else's does not exist for the caller: it is refused, or answered as what nobody has, and nothing of it is
 * changed.
 */
import { randomUUID } from "node:crypto";
import { expect } from "vitest";
import { makeMessageId } from "../../protocol/message-id.ts";
import { nodeRandom } from "../../protocol/primitives/node.ts";
import type { MessageReceipt } from "../../schemas/values.ts";
import { chainOf } from "../delegations.ts";
import { jsonOf, someEnvelope } from "../in-memory-service.ts";
import { newIdentity } from "../signing.ts";
import type { Attack, Stage } from "./attack.ts";
import { keyOf, retryOf, uploadOf } from "./examples-agents.ts";
import type { Told } from "./world.ts";

/** What is stored for the victim, and for the victim whose keys the service holds. */
function ofVictims({ world }: Stage): unknown {
  const { agents, prekeys, devices, mailboxes, usage, policies } = world.service.ports;
  const ids = [world.victim.keyid, world.heldVictim.keyid];
  const others = (name: string) => ids.includes(name.split(" ")[0] ?? "") && !name.endsWith(world.caller.keyid);
  const maps = [agents, prekeys, devices, mailboxes] as readonly ReadonlyMap<string, unknown>[];
  return structuredClone([
    ...ids.flatMap((id) => maps.map((map) => map.get(id))),
    ...usage.filter(({ agentId }) => ids.includes(agentId)),
    ...[...policies.listed].filter(others),
    ...[...policies.contacts].filter(([name]) => others(name)),
    ...ids.map((id) => policies.policies.get(id)),
  ]);
}

/** The call is taken, shows nothing of others, and changes nothing of the victims'. */
async function harmless(stage: Stage, call: () => Promise<Told>, mayStand: readonly string[] = []): Promise<Told> {
  const before = ofVictims(stage);
  const answer = await call();
  expect(answer.status, answer.text).toBeLessThan(300);
  stage.world.expectNothingOfOthersIn(answer.text, mayStand);
  expect(ofVictims(stage)).toEqual(before);
  stage.world.judged += 1;
  return answer;
}

export const objectAttacks = {
  "nothing of others is shown, and nothing of theirs is changed": async (stage) => {
    await harmless(stage, () => stage.ask(stage.example()));
  },
  "another agent named beside the call, in headers or the query": async (stage) => {
    const { keyid } = stage.world.victim;
    for (const name of ["x-agent-id", "x-user-id", "x-forwarded-user", "x-original-url", "x-http-method-override"]) {
      await harmless(stage, () => stage.ask({ ...stage.example(), headers: { [name]: keyid } }));
    }
    for (const name of ["agent_id", "agent", "keyid", "owner", "recipient_id", "sub"]) {
      const { path, ...ask } = stage.example();
      const named = `${path}${path.includes("?") ? "&" : "?"}${name}=${keyid}`;
      await stage.refused(["malformed"], { ...ask, path: named }, {}, name);
    }
  },
  "a chain of the victim's that holds: it shows and changes nothing of the victim's": async (stage) => {
    const { as, ...ask } = stage.example();
    if (as === null || !("identity" in as)) throw new Error("this attack is for signed calls");
    const named = { sub: as.keyid, cnf: { jkt: as.identity.agentId } };
    const chain = chainOf([stage.world.victim.identity, as.identity], stage.world.audienceOf("agents"), [named]);
    await harmless(stage, () => stage.ask({ ...ask, as, headers: { "sealpost-delegation": chain } }));
  },
  "somebody else's key is registered": async (stage) => {
    const { victim, caller } = stage.world;
    const ask = { ...stage.example(), body: { identity_key: keyOf(victim) } };
    await stage.refused(["signature-invalid"], { ...ask, as: caller });
    await stage.refused(["signature-invalid"], { ...ask, as: { ...caller, keyid: victim.keyid } });
    const held = { custody: "server", access_key: keyOf(stage.world.heldVictim) };
    await stage.refused(["signature-invalid"], { ...ask, body: held, as: caller });
  },
  "an agent is registered again to change what it is": async (stage) => {
    const { caller } = stage.world;
    const before = stage.world.state();
    const again = await stage.ask({ ...stage.example(), as: caller, body: { identity_key: keyOf(caller) } });
    expect([again.status, again.json.custody]).toEqual([200, "agent"]);
    expect(stage.world.state()).toEqual(before);
    stage.world.judged += 1;
  },
  "prekeys that another identity has signed (a substituted key)": async (stage) => {
    for (const signer of [stage.world.victim, { identity: newIdentity(), keyid: "" }]) {
      const { signed_prekey, kem_prekeys } = uploadOf(signer);
      for (const body of [
        { signed_prekey },
        { kem_prekeys },
        { last_resort_kem_prekey: (kem_prekeys as unknown[])[0] },
      ]) {
        await stage.refused(["prekey-signature-invalid"], { ...stage.example(), body });
      }
    }
  },
  "another claimer's key of idempotency": async (stage) => {
    const headers = { "idempotency-key": '"one and the same"' };
    const first = await stage.ask({ ...stage.example(), headers });
    const other = await stage.ask({ ...stage.example(), as: stage.world.third, headers });
    expect(first.status, first.text).toBe(200);
    const [mine, theirs] = [first, other].map(({ json }) => json.bundle.one_time_prekey.id);
    expect(mine).not.toBe(theirs);
    stage.world.judged += 1;
  },
  "a sender who is somebody else": async (stage) => {
    const { victim, third, caller } = stage.world;
    const forged = jsonOf(someEnvelope(victim.keyid, third.keyid));
    const own = jsonOf(someEnvelope(caller.keyid, victim.keyid));
    await stage.refused(["sender-mismatch"], { ...stage.example(), body: { envelopes: [forged] } });
    await stage.refused(["sender-mismatch"], { ...stage.example(), body: { envelopes: [own, forged] } });
  },
  "a sender named in the message": async (stage) => {
    const { messages } = stage.example().body as { messages: object[] };
    const body = { messages: messages.map((one) => ({ ...one, sender_id: stage.world.heldVictim.keyid })) };
    await stage.refused(["malformed"], { ...stage.example(), body });
  },
  "an agent of server custody is spoken for by the key that it was given": async (stage) => {
    const { heldVictim, caller } = stage.world;
    const ask = stage.example();
    await stage.refused(["signature-invalid"], { ...ask, as: { ...caller, keyid: heldVictim.keyid } });
    await stage.refused(["agent-unknown"], { ...ask, as: { ...heldVictim, keyid: heldVictim.identity.agentId } });
  },
  "items of another's mailbox": async (stage) => {
    const { its, caller, victim, third } = stage.world;
    const before = ofVictims(stage);
    const items = [{ sender_id: third.keyid, message_id: its.mail.victim.itemId }, { seq: its.mail.victim.seq }];
    for (const refused of [{}, { refused: "auth-failed" }]) {
      const body = { items: items.map((item) => ({ ...item, ...refused })) };
      const answer = await stage.ask({ ...stage.example(), body });
      expect(answer.status, answer.text).toBe(202);
    }
    // Whatever is said goes to the caller's own mailbox, in which there is no such item.
    const receipts = stage.world.service.ports.appended as unknown as { key: string; value: MessageReceipt }[];
    expect(receipts.length).toBeGreaterThan(0);
    expect(new Set(receipts.flatMap(({ key, value }) => [key, value.recipientId]))).toEqual(new Set([caller.keyid]));
    expect(caller.keyid).not.toBe(victim.keyid);
    expect(ofVictims(stage)).toEqual(before);
    stage.world.judged += 1;
  },
  "the status of a message between others": async (stage) => {
    const { its, third, victim } = stage.world;
    for (const sender of [third, victim]) {
      const path = `/messaging/messages/${its.messages.foreign}?sender=${sender.keyid}`;
      await stage.refused(["message-unknown"], { ...stage.example(), path });
    }
    await stage.refused(["message-unknown"], {
      ...stage.example(),
      path: `/messaging/messages/${its.messages.foreign}`,
    });
  },
  "the statuses of messages between others": async (stage) => {
    const { its, third } = stage.world;
    const asked = [its.messages.foreign, randomUUID()].map((id) => ({ message_id: id, sender_id: third.keyid }));
    const body = { messages: asked };
    const mayStand = [its.messages.foreign, third.keyid];
    const { json } = await harmless(stage, () => stage.ask({ ...stage.example(), body }), mayStand);
    expect(json.messages).toEqual(asked.map((one) => ({ ...one, status: "unknown" })));
  },
  "a retry of what somebody else got": async (stage) => {
    const { its, caller, third, victim } = stage.world;
    await stage.refused(["message-unknown"], {
      ...stage.example(),
      body: retryOf(caller, third, its.messages.foreign),
    });
    await stage.refused(["retry-mismatch"], { ...stage.example(), body: retryOf(victim, third, its.messages.foreign) });
    const signedByOther = { identity: newIdentity(), keyid: caller.keyid };
    const body = retryOf(signedByOther, victim, its.messages.received);
    await stage.refused(["retry-signature-invalid"], { ...stage.example(), body });
  },
  "the sessions of others with the peer": async (stage) => {
    const { json } = await harmless(stage, () => stage.ask(stage.example()));
    expect(json.sessions).toHaveLength(2);
    const { victim, third } = stage.world;
    const path = `/messaging/sessions/${third.keyid}`;
    const other = await harmless(stage, () => stage.ask({ ...stage.example(), path }));
    expect(other.json.sessions).toEqual([]);
    expect(victim.keyid).toBe(json.sessions[0].peer_id);
  },
  "a device of another": async (stage) => {
    const { deviceId } = stage.world.its.devices.victim;
    const path = `/messaging/devices/${deviceId}`;
    const { json } = await harmless(stage, () => stage.ask({ ...stage.example(), path }), [deviceId]);
    if (stage.target.route.method === "DELETE") expect(json.removed).toBe(false);
  },
  "a recipient that has blocked the caller, or lets only its own in": async (stage) => {
    const { service, caller, victim, held } = stage.world;
    const { policies, listed } = service.ports.policies;
    const codes = ["not-allowed"];
    for (const { keyid } of [caller, held]) listed.add(`${victim.keyid} block ${keyid}`);
    await stage.refused(codes, stage.example(), {}, "blocked");
    for (const { keyid } of [caller, held]) listed.delete(`${victim.keyid} block ${keyid}`);
    // What answers the recipient's own message needs no more leave than not to be blocked.
    if (stage.target.name === "requestRetry") return;
    for (const policy of ["contacts", "allow-list"] as const) {
      policies.set(victim.keyid, policy);
      await stage.refused(codes, stage.example(), {}, policy);
    }
  },
  "whoever was blocked asks to become a contact": async (stage) => {
    const { service, caller, heldVictim } = stage.world;
    service.ports.policies.listed.add(`${heldVictim.keyid} block ${caller.keyid}`);
    await stage.refused(["not-allowed"], stage.example());
  },
  "a request that others made to each other": async (stage) => {
    const { third, heldVictim } = stage.world;
    for (const { keyid } of [third, heldVictim]) {
      const path = stage.example().path.replace(stage.world.victim.keyid, keyid);
      await stage.refused(["contact-unknown"], { ...stage.example(), path });
    }
  },
  "the caller's own request is answered by itself": async (stage) => {
    const { service, caller, heldVictim } = stage.world;
    const { path } = stage.example();
    const asked = { method: "POST", path: `/messaging/contacts/${heldVictim.keyid}`, as: caller };
    expect((await stage.ask(asked)).status).toBe(201);
    await stage.refused(["contact-unknown"], {
      ...stage.example(),
      path: path.replace(stage.world.victim.keyid, heldVictim.keyid),
    });
    expect(service.ports.policies.contacts.get(`${caller.keyid} ${heldVictim.keyid}`)?.state).toBe("requested");
  },
  "a contact between others": async (stage) => {
    const { service, third, victim } = stage.world;
    const path = `/messaging/contacts/${third.keyid}`;
    const { json } = await harmless(stage, () => stage.ask({ ...stage.example(), path }), [third.keyid]);
    expect(json.removed).toBe(false);
    expect(service.ports.policies.contacts.get(`${third.keyid} ${victim.keyid}`)?.state).toBe("requested");
  },
  "a delegation that another issued": async (stage) => {
    const { world } = stage;
    const jti = "a-token-of-the-victims";
    const chain = chainOf([world.victim.identity, world.third.identity], world.audienceOf("agents"), [{ jti }]);
    const presented = { method: "GET", path: "/messaging/receive", as: world.third };
    const { json } = await harmless(stage, () =>
      stage.ask({ ...stage.example(), path: `/messaging/delegations/${jti}/revoke` }),
    );
    expect(json.issuer_id).toBe(world.caller.keyid);
    const answer = await stage.ask({ ...presented, headers: { "sealpost-delegation": chain } });
    expect(answer.status, answer.text).toBe(200);
    const byVictim = { method: "POST", path: `/messaging/delegations/${jti}/revoke`, as: world.victim };
    expect((await stage.ask(byVictim)).status).toBe(200);
    const revoked = { ...presented, headers: { "sealpost-delegation": chain } };
    expect((await stage.refused(["delegation-refused"], revoked)).json.rule).toBe("revoked");
  },
  "a message is sent under an id that the caller used for other bytes": async (stage) => {
    const { caller, victim } = stage.world;
    const timestamp = Date.now();
    const fixed = { timestamp, messageId: makeMessageId(timestamp, nodeRandom) };
    const made = () => ({ envelopes: [jsonOf(someEnvelope(caller.keyid, victim.keyid, fixed))] });
    expect((await stage.ask({ ...stage.example(), body: made() })).status).toBe(202);
    await stage.refused(["message-id-reused"], { ...stage.example(), body: made() });
  },
} satisfies Record<string, Attack>;
