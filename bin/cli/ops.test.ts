import { execFile } from "node:child_process";
import path from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { type InMemoryService, inMemoryService } from "../../tests/in-memory-service.ts";
import { newIdentity } from "../../tests/signing.ts";

let service: InMemoryService;
beforeEach(async () => {
  service = await inMemoryService();
});
afterEach(() => service.http.close());

const [recipientId, senderId] = [newIdentity().agentId, newIdentity().agentId];
const itemId = "0198c0de-7a11-7b2c-9d3e-4f5061728394";
const topic = "message.receipt.v1";

interface Ran {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

function run(args: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<Ran> {
  const place = { SEALPOST_OPS_URL: service.ops.url, SEALPOST_OPS_TOKEN: service.ports.opsToken ?? "" };
  return new Promise((resolve) => {
    const entry = path.join(import.meta.dirname, "..", "sealpost.ts");
    const child = execFile(process.execPath, [entry, "ops", ...args], { env: { ...place, ...env } }, (_, out, err) =>
      resolve({ code: child.exitCode ?? -1, out, err }),
    );
  });
}

function lie() {
  const { stuck, letters } = service.ports.operators;
  stuck.push({ state: "set-aside", recipientId, senderId, itemId, kind: "message", seq: 7, since: 1_000 });
  letters.push({
    ...{ topic, partition: 2, offset: 5, at: 2_000, code: "undecodable", group: "acks" },
    ...{ origin: { partition: 2, offset: 9, at: 1_000 }, id: "\u001b[2Jan-id", subject: "a\nb", valueBytes: 3 },
    record: { topic, key: "k", value: Buffer.from("v"), headers: {} },
  });
}

test("what is stuck is listed, retried under the name that the list printed, and deleted with a reason", async () => {
  lie();
  const groups =
    "undeliverable (not-woken): 0\nset-aside (connections-broke): 1, the oldest since 1970-01-01T00:00:01.000Z\n";
  expect(await run(["list"])).toEqual({ code: 0, out: groups, err: "" });
  const listed = await run(["list", "--state", "set-aside", "--recipient", recipientId, "--limit", "5"]);
  const name = listed.out.split("\n")[1]?.split(" ")[0] ?? "";
  expect(name).toBe(`${recipientId}/${senderId}/${itemId}`);
  expect(await run(["retry", name, "--dry-run"])).toMatchObject({ code: 0, out: "1 would be tried again\n" });
  expect(service.ports.appended).toEqual([]);
  expect(await run(["retry", name])).toMatchObject({ code: 0, out: "1 will be tried again\n" });
  const deleted = await run(["delete", "--state", "set-aside", "--sender", senderId, "--reason", "gone", "--json"]);
  expect(JSON.parse(deleted.out)).toEqual({ count: 1, more: false, dry_run: false });
  expect(service.ports.operators.acts.map(({ act }) => act)).toEqual(["retried", "deleted"]);
});

test("dead letters are listed without what would steer the terminal, and put back by place or all", async () => {
  lie();
  expect((await run(["dead-letters"])).out).toBe(`${topic}: 1\n`);
  const listed = await run(["dead-letters", topic]);
  expect(listed.out).toBe(
    `${topic}: 1\n2 5 at 1970-01-01T00:00:02.000Z undecodable by acks, 3 bytes, ce_id \ufffd[2Jan-id, about a b\n`,
  );
  expect((await run(["replay", topic, "2", "5"])).out).toBe("1 put back\n");
  expect((await run(["replay", topic, "--all", "--dry-run"])).out).toBe("1 would be put back\n");
  expect(service.ports.operators.putBack).toHaveLength(1);
});

test("what is wrong is one line that names what to do, with the exit code for it, and never the token", async () => {
  const cases: [args: readonly string[], code: number, says: string, env?: Record<string, string>][] = [
    [[], 2, "ops takes one of list, retry"],
    [["fly"], 2, "sealpost ops --help"],
    [["list", "x"], 2, "no words"],
    [["retry"], 2, "name items, or a --state"],
    [["retry", "a/b/c", "--state", "set-aside"], 2, "name items, or a --state"],
    [["retry", "a/b"], 2, "RECIPIENT/SENDER/ID"],
    [["retry", "a/b/c", "--recipient", "a"], 2, "go with a --state"],
    [["delete", "a/b/c"], 2, "--reason"],
    [["replay"], 2, "a partition and an offset, or --all"],
    [["replay", topic, "1"], 2, "a partition and an offset, or --all"],
    [["replay", topic, "1", "2", "--all"], 2, "a partition and an offset, or --all"],
    [["replay", topic, "one", "2"], 2, "are numbers"],
    [["retry", "a/b/c"], 1, "malformed: not an agent id"],
    [["list", "--state", "lost"], 1, "malformed"],
    [["replay", topic, "9", "9"], 1, "dead-letter-unknown"],
    [["list"], 1, "operator-unknown", { SEALPOST_OPS_TOKEN: "another-token-of-32-characters-or-more" }],
    [["list"], 2, "SEALPOST_OPS_TOKEN", { SEALPOST_OPS_TOKEN: "too-short" }],
    [["list", "--url", "nowhere"], 2, "SEALPOST_OPS_URL"],
    [["list", "--url", "http://127.0.0.1:1"], 3, "there is no answer from http://127.0.0.1:1"],
  ];
  for (const [args, code, says, env = {}] of cases) {
    const ran = await run(args, env);
    expect(ran, args.join(" ")).toMatchObject({ code, out: "" });
    expect(ran.err, args.join(" ")).toContain(says);
    expect(ran.err.trim().split("\n"), args.join(" ")).toHaveLength(1);
    expect(ran.err).not.toContain(env["SEALPOST_OPS_TOKEN"] ?? service.ports.opsToken);
  }
  expect(service.ports.operators.putBack).toEqual([]);
}, 300_000);

test("what agents used is a table: of one agent by the hour or the day, of one hour by the agent", async () => {
  const at = Date.UTC(2026, 7, 19, 9);
  service.ports.usage.push({
    ...{ agentId: senderId, at, messagesSent: 12, bytesSent: 99, messagesReceived: 0, bytesReceived: 0 },
    ...{ messagesAcknowledged: 0, bytesAcknowledged: 0, messagesDiscarded: 0, bytesDiscarded: 0 },
    ...{ messagesStored: 0, bytesStored: 0 },
  });
  const ofAgent = await run(["usage", senderId, "--from", "2026-08-19T09", "--to", "2026-08-20"]);
  expect(ofAgent).toMatchObject({ code: 0, err: "" });
  expect(ofAgent.out).toMatch(/^hour {2,}sent +received .*\n2026-08-19T09:00:00.000Z {2}12 \(99 B\) {2}0 \(0 B\)/);
  const ofHour = await run(["usage", "--hour", "2026-08-19T09"]);
  expect(ofHour.out).toContain(`\n${senderId}  12 (99 B)  `);
  expect((await run(["usage", "--hour", "2026-08-19T10"])).out).toBe("nothing was counted in this time\n");
  const wrong = [[], [senderId, "--hour", "2026-08-19"], ["--hour", "now"], ["--hour", "2026-08-19", "--by", "day"]];
  for (const words of wrong) expect(await run(["usage", ...words])).toMatchObject({ code: 2, out: "" });
  expect((await run(["usage", "../nobody"])).err).toContain("not an agent id");
});
