import { execFile } from "node:child_process";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { promisify } from "node:util";
import { Redis } from "ioredis";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Agent } from "../sdk/agent.ts";
import { readDelegation } from "../sdk/delegation.ts";
import { openPostgres } from "../store/postgres.ts";
import { agentChanged, messageQueued } from "../streams/catalogue.ts";
import { consumerParts, eventually, type House, openHouse } from "./house.ts";

const ENTRY = path.join(import.meta.dirname, "..", "bin", "sealpost.ts");

let house: House;
let url: string;

beforeAll(async () => {
  house = await openHouse();
  ({ url } = await house.start({ roles: ["api"], prepare: true }));
  await house.start({ roles: consumerParts });
});

afterAll(() => house?.close());

interface Ran {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** The command line, for the agent of this name. */
async function run(name: string, ...args: readonly string[]): Promise<Ran> {
  const store = ["--store", path.join(house.folder, `${name}.db`)];
  const env = { PATH: path.dirname(process.execPath), NO_COLOR: "1" };
  try {
    const { stdout, stderr } = await promisify(execFile)(process.execPath, [ENTRY, ...args, ...store], { env });
    return { code: 0, out: stdout, err: stderr };
  } catch (error) {
    const { code, stdout, stderr } = error as { code: number; stdout: string; stderr: string };
    return { code, out: stdout, err: stderr };
  }
}

async function register(name: string, custody: string): Promise<{ id: string; keyId: string }> {
  expect(await run(name, "register", "--custody", custody, "--url", url)).toMatchObject({ code: 0, err: "" });
  const { agent_id: id, key_id: keyId } = JSON.parse((await run(name, "id", "--json")).out);
  return { id, keyId };
}

/** The recipient takes messages from this agent alone. */
async function onlyFrom(recipientId: string, friendId: string): Promise<void> {
  const postgres = openPostgres(house.stack.urls.postgresUrl, { applicationName: "delegation", connectionsMax: 1 });
  await postgres.query({
    text: "INSERT INTO messaging_policies (agent_id, policy, changed_at) VALUES ($1, 'allow-list', 1)",
    values: [recipientId],
  });
  await postgres.query({
    text: "INSERT INTO messaging_policy_lists (agent_id, list, peer_id, added_at) VALUES ($1, 'allow', $2, 1)",
    values: [recipientId, friendId],
  });
  await postgres.close();
}

test("from the command line, an agent of server custody is let in under the chain of one that may, is recorded so, and no more when it was taken back, Redis or not", {
  timeout: 400_000,
}, async () => {
  const custody = "server";
  const name = (role: string) => `${role}-${custody}`;
  const [root, sender, recipient] = [
    await register(name("root"), "agent"),
    await register(name("sender"), custody),
    await register(name("recipient"), "agent"),
  ];
  await onlyFrom(recipient.id, root.id);
  expect((await run(name("sender"), "send", recipient.id, "as myself")).err).toContain("not-allowed");
  const limits = ["--recipient", recipient.id, "--expires", "1h", "--key", sender.keyId];
  const made = await run(name("root"), "delegate", "--to", sender.id, ...limits);
  expect(made).toMatchObject({ code: 0, err: "" });
  const file = path.join(house.folder, name("chain"));
  writeFileSync(file, made.out);
  const [link] = readDelegation(made.out.trim());
  if (link === undefined) throw new Error("no link");
  expect((await run(name("sender"), "delegation", "show", file)).out).toContain(link.jti);

  const sent = await run(name("sender"), "send", recipient.id, "for my root", "--delegation", file);
  expect(sent).toMatchObject({ code: 0, err: "" });
  const messageId = sent.out.trim();
  const queued = async () => (await house.read(messageQueued)).filter(({ decoded }) => decoded.itemId === messageId);
  await eventually("the message is queued", async () => (await queued()).length > 0);
  expect((await queued()).map(({ decoded }) => decoded.delegation)).toEqual([
    [{ issuerId: root.id, tokenId: link.jti }],
  ]);
  expect((await run(name("recipient"), "receive")).out).toContain("for my root");

  expect(await run(name("root"), "delegation", "revoke", link.jti)).toMatchObject({ code: 0, err: "" });
  const revokedAt = Date.now();
  const redis = new Redis(house.stack.urls.redisUrl);
  await redis.flushall();
  redis.disconnect();
  await new Promise((resolve) => setTimeout(resolve, revokedAt + 5_000 - Date.now()));
  const refused = await run(name("sender"), "send", recipient.id, "again", "--delegation", file);
  expect(refused.code).toBe(1);
  expect(refused.err).toContain("delegation-refused (revoked)");
  const changes = async () => (await house.read(agentChanged)).filter(({ decoded }) => decoded.agentId === root.id);
  await eventually("the revocation is told", async () =>
    (await changes()).some(({ decoded }) => decoded.change === "delegation-revoked" && decoded.tokenId === link.jti),
  );
});

test("a program with keys of its own is let in under a chain for as long as that holds", async () => {
  const [root, recipient] = [await house.agent("root", url), await house.agent("recipient", url)];
  const plain = await house.agent("sender", url);
  await onlyFrom(recipient.id, root.id);
  await expect(plain.send(recipient.id, "as myself")).rejects.toMatchObject({ code: "not-allowed" });
  const made = await root.delegate({ to: plain.id, recipients: [recipient.id], lifeMs: 3_600_000 });
  await plain.close();

  const storePath = path.join(house.folder, "sender.db");
  const sender = await Agent.open({ storePath, delegation: made.chain });
  const { messageId } = await sender.send(recipient.id, "for my root");
  for await (const message of recipient.inbox()) {
    expect([message.id, message.text()]).toEqual([messageId, "for my root"]);
    break;
  }
  const queued = async () => (await house.read(messageQueued)).filter(({ decoded }) => decoded.itemId === messageId);
  // Its recipient may have it before the world is told.
  await eventually("the message is queued", async () => (await queued()).length > 0);
  expect((await queued()).map(({ decoded }) => decoded.delegation)).toEqual([
    [{ issuerId: root.id, tokenId: made.tokenId }],
  ]);

  await root.revokeDelegation(made.tokenId);
  const redis = new Redis(house.stack.urls.redisUrl);
  await redis.flushall();
  redis.disconnect();
  await new Promise((resolve) => setTimeout(resolve, 5_000));
  await expect(sender.send(recipient.id, "too late")).rejects.toMatchObject({
    ...{ name: "AgentStopped", code: "delegation-refused", cause: { rule: "revoked" } },
  });
  await sender.close();
});
