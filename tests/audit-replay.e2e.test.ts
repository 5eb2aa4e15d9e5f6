import { execFile } from "node:child_process";
import { readdir, readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createAuditKey } from "../store/audit-key.ts";
import { agentChanged, auditRecord } from "../streams/catalogue.ts";
import { expectWholeAudit } from "./audit-world.ts";
import { consumerParts, eventually, type House, openHouse, operatorsUrlOf, takeTexts } from "./house.ts";

const token = "a-token-of-the-operators-0123456789";

let house: House;
let url: string;
let env: Record<string, string>;

beforeAll(async () => {
  house = await openHouse();
  const keyFile = path.join(house.folder, "audit-key");
  createAuditKey(keyFile, "log.example/audit");
  const operators = { SEALPOST_OPS_TOKEN: token, SEALPOST_OPS_HTTP_PORT: "0" };
  const api = await house.start({ roles: ["api"], prepare: true, env: operators });
  url = api.url;
  env = {
    SEALPOST_KAFKA_BROKERS: house.stack.urls.kafkaBrokers.join(","),
    SEALPOST_REGISTRY_URL: house.stack.urls.registryUrl,
    SEALPOST_OPS_URL: operatorsUrlOf(api),
    SEALPOST_OPS_TOKEN: token,
  };
  await house.start({ roles: consumerParts, env: { SEALPOST_AUDIT_KEY_FILE: keyFile } });
});

afterAll(() => house.close());

interface Ran {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

function audit(args: readonly string[], others: Record<string, string> = {}): Promise<Ran> {
  const entry = path.join(import.meta.dirname, "..", "bin", "sealpost.ts");
  return new Promise((resolve) => {
    const child = execFile(process.execPath, [entry, "audit", ...args], { env: { ...env, ...others } }, (_, out, err) =>
      resolve({ code: child.exitCode ?? -1, out, err }),
    );
  });
}

async function contents(folder: string): Promise<Record<string, string>> {
  const names = (await readdir(folder)).sort();
  const read = await Promise.all(names.map(async (name) => [name, await readFile(path.join(folder, name), "base64")]));
  return Object.fromEntries(read);
}

test("what happened is replayed, proven and taken down; again it is the same; and whoever changes it is found out", async () => {
  const [alice, bob] = [await house.agent("alice", url), await house.agent("bob", url)];
  for (let n = 0; n < 10; n++) await alice.send(bob.id, `text ${n}`);
  await takeTexts(bob, 10);
  // What happened before the range ends and is recorded after it was replayed would not be in it.
  const isRecordedUpToNow = async () => {
    const actions = (await house.read(auditRecord)).map(({ decoded }) => decoded.action);
    const count = (action: string) => actions.filter((one) => one === action).length;
    return count("message.acknowledged") === 10 && count("session.initialized") > 0 && count("prekey.claimed") > 0;
  };
  await eventually("everything is recorded", isRecordedUpToNow);
  await expectWholeAudit(house);
  const range = ["--from", "2026-01-01", "--to", new Date().toISOString(), "--late", "1s"];
  const [one, two] = [path.join(house.folder, "one"), path.join(house.folder, "two")];

  // The newest records are signed within the minute; until then it says so, and writes nothing. So is one behind the range, which closes it.
  const replay = (out: string, ...more: string[]) => audit(["replay", ...range, "--out", out, "--json", ...more]);
  const isClosed = ({ code, out }: typeof done) => code === 0 && JSON.parse(out).closed === true;
  let done = await replay(one);
  await eventually(
    "everything is signed",
    async () => {
      if (!isClosed(done)) done = await replay(one, "--force");
      return isClosed(done);
    },
    120_000,
  ).catch((error: unknown) => {
    throw new Error(done.err, { cause: error });
  });
  const told = JSON.parse(done.out);
  expect(told).toMatchObject({ verified: true, closed: true, was_there: false });
  const [first] = (await readdir(one)).filter((name) => name.startsWith("audit-"));
  const file = path.join(one, first ?? "");
  const rows = (await readFile(file, "utf8"))
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
  const expected = (await house.read(auditRecord))
    .map(({ decoded }) => decoded)
    .filter(({ occurredAt }) => occurredAt < Date.parse(range[3] ?? ""))
    .sort((a, b) => a.logIndex - b.logIndex);
  expect(rows.map(({ event_id, log_index, action }) => [event_id, log_index, action])).toEqual(
    expected.map(({ eventId, logIndex, action }) => [eventId, logIndex, action]),
  );
  expect(rows.filter(({ action }) => action === "message.accepted")).toHaveLength(10);

  expect((await replay(two)).code).toBe(0);
  expect(await contents(two)).toEqual(await contents(one));
  expect(JSON.parse((await replay(two)).out)).toMatchObject({ verified: true, was_there: true });
  expect(await audit(["verify", "--dir", one])).toMatchObject({ code: 0, err: "" });
  expect(await audit(["verify", "--live"])).toMatchObject({ code: 0 });

  const facts = (await house.read(agentChanged)).filter(({ decoded }) => decoded.change === "audit-replayed");
  const reasons = facts.map(({ decoded }) => decoded.reason ?? "");
  expect(reasons[0]).toMatch(/^begun 2026-01-01T00:00:00\.000Z\/.* jsonl$/);
  const ends = reasons.filter((reason) => reason.startsWith("done"));
  expect(reasons.at(-1)).toMatch(/^begun/);
  expect(ends.at(-1)).toMatch(new RegExp(`^done .* records ${rows.length} manifest sha256:${told.manifest_sha256}$`));
  const isRecorded = async () => {
    const records = (await house.read(auditRecord)).map(({ decoded }) => decoded);
    return records.filter(({ action }) => action === "agent.audit-replayed").length === facts.length;
  };
  await eventually("the replays are audit records", isRecorded, 60_000);

  await writeFile(file, (await readFile(file, "utf8")).replace('"outcome":"ok"', '"outcome":"no"'));
  const changed = rows.find(({ outcome }) => outcome === "ok");
  const found = await audit(["verify", "--dir", one]);
  expect(found.code).toBe(1);
  expect(found.err).toContain(`record ${changed.log_index} is changed`);
  expect(await replay(one)).toMatchObject({ code: 1, out: "" });
});

test("without the service to take it down nothing is replayed", async () => {
  const out = path.join(house.folder, "unrecorded");
  const range = ["--from", "2026-01-01", "--to", "2026-01-02", "--out", out];
  const nobody = { SEALPOST_OPS_URL: "http://127.0.0.1:1" };
  expect(await audit(["replay", ...range], nobody)).toMatchObject({ code: 3, out: "" });
  expect(await audit(["replay", ...range, "--allow-unverified"], nobody)).toMatchObject({ code: 3, out: "" });
  await expect(readdir(out)).rejects.toThrow("ENOENT");
  const anyway = await audit(["replay", ...range, "--allow-unverified", "--unrecorded"], nobody);
  expect(anyway).toMatchObject({ code: 1, out: expect.stringContaining("0 records in 0 files") });
});
