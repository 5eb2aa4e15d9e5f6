/** What is fuzzed: real servers, the whole service in one process, agents whose keys the fuzzers sign with, and two that only talk. */
import { writeFileSync } from "node:fs";
import path from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import type { ServiceProcess } from "../../bin/service-process.ts";
import { ServiceClient } from "../../sdk/service-client.ts";
import { createAuditKey } from "../../store/audit-key.ts";
import { HeldAgent } from "../held-agent.ts";
import { type House, openHouse, operatorsUrlOf, takeTexts } from "../house.ts";
import { type OwnerForTests, ownerForTests } from "../owners.ts";
import { RawSender } from "../raw-sender.ts";
import { newIdentity } from "../signing.ts";
import { INSPECTED } from "./memory.ts";

export interface Stage {
  readonly house: House;
  readonly service: ServiceProcess;
  readonly url: string;
  readonly opsUrl: string;
  readonly opsToken: string;
  readonly owner: OwnerForTests;
  /** They sign what the fuzzers send; nothing ends them. */
  readonly callers: readonly RawSender[];
  /** Of server custody; they sign as well. */
  readonly held: readonly HeldAgent[];
  /** Whom the callers have met: what they seal for this agent nobody reads. */
  readonly recipientId: string;
  /** Agents of the owner, whom calls may suspend and revoke. */
  readonly victims: readonly string[];
  /** A message from one agent to another, to its acknowledgement: how long it took, ms. Rejects when it does not get there. */
  control(): Promise<number>;
  close(): Promise<void>;
}

export const OWNER_SUBJECT = "team-7";
const AUDIENCE = "https://sealpost.example";
const OPS_TOKEN = "a-token-of-the-operators-0123456789";
const CALLERS = 8;
const HELD = 2;
const VICTIMS = 20;
/** What was put in before stands in front of it in the log. */
const CONTROL_MS_MAX = 60_000;

/** Limits by rate would answer instead of what is to be tried. */
const UNLIMITED = {
  SEALPOST_CALLS_PER_MINUTE: "100000000",
  SEALPOST_MESSAGES_PER_MINUTE: "100000000",
  SEALPOST_PAIR_MESSAGES_PER_MINUTE: "100000000",
  SEALPOST_UNPROVEN_PER_MINUTE: "100000000",
  SEALPOST_REGISTRATIONS_PER_HOUR: "100000000",
  SEALPOST_PREKEY_BUDGET_PER_HOUR: "100000000",
};

export async function openStage(): Promise<Stage> {
  const house = await openHouse();
  try {
    const owner = await ownerForTests("acme", AUDIENCE);
    const ownersFile = path.join(house.folder, "owners.json");
    const auditKeyFile = path.join(house.folder, "audit-key");
    createAuditKey(auditKeyFile, "log.example/audit");
    const issuers = [{ kind: "statements", issuer: owner.issuer, jwks: owner.jwks }];
    writeFileSync(ownersFile, JSON.stringify({ audience: AUDIENCE, issuers }));
    const service = await house.start({
      prepare: true,
      env: {
        ...UNLIMITED,
        ...INSPECTED,
        SEALPOST_AUDIT_KEY_FILE: auditKeyFile,
        SEALPOST_OWNERS_FILE: ownersFile,
        SEALPOST_OPS_TOKEN: OPS_TOKEN,
        SEALPOST_OPS_HTTP_PORT: "0",
        SEALPOST_LOG_LEVEL: "info",
      },
    });
    const { url } = service;
    const [alice, bob, carol] = [
      await house.agent("alice", url),
      await house.agent("bob", url),
      await house.agent("carol", url),
    ];
    const callers: RawSender[] = [];
    for (let left = CALLERS; left > 0; left--) callers.push(await callerFor(url, carol.id));
    const held = Array.from({ length: HELD }, () => new HeldAgent(url));
    for (const one of held) await one.register();
    const victims: string[] = [];
    for (let left = VICTIMS; left > 0; left--) victims.push(await victimOf(owner, url));
    let said = 0;
    return {
      house,
      service,
      url,
      opsUrl: operatorsUrlOf(service),
      opsToken: OPS_TOKEN,
      owner,
      callers,
      held,
      recipientId: carol.id,
      victims,
      control: async () => {
        const startMs = performance.now();
        const text = `control ${said++}`;
        const sent = await alice.send(bob.id, text);
        const texts = await takeTexts(bob, 1, CONTROL_MS_MAX);
        if (texts[0] !== text) throw new Error("the control message did not come");
        await sent.acknowledged({ signal: AbortSignal.timeout(CONTROL_MS_MAX) });
        return Math.round(performance.now() - startMs);
      },
      close: () => house.close(),
    };
  } catch (error) {
    await house.close();
    throw error;
  }
}

async function callerFor(url: string, recipientId: string): Promise<RawSender> {
  const caller = new RawSender(url);
  await caller.register();
  await caller.meet(recipientId);
  return caller;
}

async function victimOf(owner: OwnerForTests, url: string): Promise<string> {
  const me = newIdentity();
  const ownerStatement = await owner.register(OWNER_SUBJECT, me.agentId);
  await new ServiceClient(new URL(url), me, new AbortController().signal, { ownerStatement }).register();
  return me.agentId;
}

/** Resolves when it holds; false after `msMax`. */
export async function within(msMax: number, holds: () => boolean | Promise<boolean>): Promise<boolean> {
  const until = performance.now() + msMax;
  while (!(await holds())) {
    if (performance.now() > until) return false;
    await pause(200);
  }
  return true;
}
