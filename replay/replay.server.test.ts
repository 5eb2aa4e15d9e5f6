import { readdir, readFile } from "node:fs/promises";
import path from "node:path";
import { describe, expect, test } from "vitest";
import type { AuditRecord } from "../schemas/values.ts";
import { auditRecordAt, RECORDS_BEGIN } from "../tests/audit-records.ts";
import { LATE_FOR_EVER, openReplayScene, type ReplayScene, useReplayStage } from "../tests/replay-stage.ts";
import { Found } from "./finding.ts";
import { rowFormats } from "./formats/format.ts";
import { countReplay, replayInto } from "./replay.ts";
import type { ReplayRequest } from "./request.ts";
import { recordOf } from "./rows.ts";

const stage = useReplayStage();
const plain = { force: false, allowUnverified: false };
const request: ReplayRequest = {
  ...{ from: RECORDS_BEGIN, to: RECORDS_BEGIN + 1_000_000, late_ms: LATE_FOR_EVER },
  ...{ agents: [], actions: [], format: "jsonl", records_per_file: 250_000 },
};

function records(count: number): AuditRecord[] {
  return Array.from({ length: count }, (_, n) => auditRecordAt(n));
}

/** A log of so many records, signed; in Kafka as `publish` has it. */
async function signedScene(count: number, inKafka = (all: readonly AuditRecord[]) => all): Promise<ReplayScene> {
  const scene = await openReplayScene(stage());
  scene.signed.append(records(count));
  scene.signed.sign();
  await scene.publish(inKafka(records(count)));
  return scene;
}

async function contents(folder: string): Promise<Record<string, string>> {
  const names = (await readdir(folder)).sort();
  const read = await Promise.all(names.map(async (name) => [name, await readFile(path.join(folder, name), "base64")]));
  return Object.fromEntries(read);
}

async function recordsIn(folder: string, format: ReplayRequest["format"]): Promise<(AuditRecord | null)[]> {
  const all: (AuditRecord | null)[] = [];
  for (const name of (await readdir(folder)).filter((one) => one.startsWith("audit-")).sort()) {
    for await (const row of rowFormats[format].read(path.join(folder, name))) all.push(recordOf(row));
  }
  return all;
}

/** As several processes publish: neighbours exchanged, some twice. */
function disordered(all: readonly AuditRecord[]): AuditRecord[] {
  return all.flatMap((record, n) => {
    const other = all[n % 2 === 0 ? n + 1 : n - 1] ?? record;
    return n % 10 === 0 ? [other, other] : [other];
  });
}

describe("a replay", () => {
  test("has each record once and in the log's order, however they lie in Kafka, and is the same bytes each time", async () => {
    const scene = await signedScene(3_000, disordered);
    const [one, two] = [stage().newFolder(), stage().newFolder()];
    const asked: ReplayRequest = { ...request, format: "parquet", records_per_file: 1_100 };
    const { manifest } = await replayInto(one, asked, plain, scene.deps);
    await replayInto(two, asked, plain, scene.deps);
    expect(await recordsIn(one, "parquet")).toEqual(records(3_000));
    expect(await contents(one)).toEqual(await contents(two));
    expect(Object.keys(await contents(one))).toEqual([
      "audit-000000000000-000000001099.parquet",
      "audit-000000001100-000000002199.parquet",
      "audit-000000002200-000000002999.parquet",
      "leaves.bin",
      "manifest.json",
    ]);
    expect(manifest).toMatchObject({
      records: 3_000,
      places: { first: 0, last: 2_999 },
      // Nothing is known behind it.
      closed: false,
      unverified: null,
    });
    expect(manifest.by_action).toEqual({ "message.accepted": 2_571, "prekey.claimed": 429 });
    expect(manifest.offsets.reduce((sum, { from, to }) => sum + to - from, 0)).toBeGreaterThanOrEqual(3_000);
    const groups = await stage().kafka.ask((admin) => admin.listGroups());
    expect(groups.groups.filter(({ groupId }) => groupId.startsWith("sealpost-audit-replay"))).toEqual([]);
  });

  test("of a part of the log, an agent and an action holds these alone, proven with all others between them", async () => {
    const scene = await signedScene(2_000);
    const folder = stage().newFolder();
    const [from, to] = [RECORDS_BEGIN + 500, RECORDS_BEGIN + 1_500];
    const agents = [auditRecordAt(600).agentId];
    const asked: ReplayRequest = { ...request, from, to, agents, actions: ["message.*"], format: "csv" };
    const { manifest } = await replayInto(folder, asked, plain, scene.deps);
    const expected = records(2_000).filter(
      ({ occurredAt, action, senderId, recipientId }) =>
        occurredAt >= from &&
        occurredAt < to &&
        action.startsWith("message.") &&
        [senderId, recipientId].includes(agents[0] ?? null),
    );
    expect(expected.length).toBeGreaterThan(1);
    expect(await recordsIn(folder, "csv")).toEqual(expected);
    expect(manifest.verified).not.toBeNull();
    expect(manifest.places).toEqual({ first: 0, last: 1_999 });
  });

  test("that was interrupted anywhere goes on, and is the same bytes as one that was not", async () => {
    const scene = await signedScene(3_000, disordered);
    const asked: ReplayRequest = { ...request, records_per_file: 500 };
    const [whole, broken] = [stage().newFolder(), stage().newFolder()];
    await replayInto(whole, asked, plain, scene.deps);
    const reached: string[] = [];
    for (const phase of ["reading", "checking", "writing"] as const) {
      const interrupted = new AbortController();
      const progress = (now: string) => {
        if (now === phase) interrupted.abort();
        reached.push(now);
      };
      // The last part ends before it sees the signal: one bucket holds all.
      await replayInto(broken, asked, plain, { ...scene.deps, progress, signal: interrupted.signal }).catch(
        () => undefined,
      );
      if (phase !== "writing")
        expect(Object.keys(await contents(broken).catch(() => ({})))).not.toContain("manifest.json");
    }
    expect(new Set(reached)).toEqual(new Set(["reading", "checking", "writing"]));
    await replayInto(broken, asked, plain, scene.deps);
    expect(await contents(broken)).toEqual(await contents(whole));
  });

  test("again into its folder finds it done; another range is refused, and so is a folder with other things", async () => {
    const scene = await signedScene(50);
    const folder = stage().newFolder();
    await replayInto(folder, request, plain, scene.deps);
    expect(await replayInto(folder, request, plain, scene.deps)).toMatchObject({ wasThere: true });
    const other = { ...request, to: request.to - 1 };
    await expect(replayInto(folder, other, plain, scene.deps)).rejects.toThrow("holds another replay");
    await replayInto(folder, other, { ...plain, force: true }, scene.deps);
    await expect(replayInto(path.dirname(folder), request, plain, scene.deps)).rejects.toThrow("is not empty");
  });

  test("counted only, says the same numbers and leaves nothing", async () => {
    const scene = await signedScene(400, disordered);
    const folder = stage().newFolder();
    const counted = await countReplay(folder, request, scene.deps);
    expect(counted).toMatchObject({ records: 400, repeats: 40, finding: null });
    await expect(readdir(folder)).rejects.toThrow("ENOENT");
  });
});

describe("a replay of a log that is not as it was signed writes nothing, and names the first record that is", () => {
  const changed = (record: AuditRecord) => ({ ...record, size: 1, outcome: "ok " });
  const wrong: Readonly<Record<string, [(all: readonly AuditRecord[]) => AuditRecord[], object]>> = {
    missing: [(all) => all.toSpliced(123, 1), { kind: "missing", logIndex: 123 }],
    changed: [
      (all) => all.map((record) => (record.logIndex === 77 || record.logIndex === 150 ? changed(record) : record)),
      { kind: "changed", logIndex: 77 },
    ],
    "in another order": [
      (all) => all.map((record, n) => ({ ...record, logIndex: n === 40 ? 41 : n === 41 ? 40 : n })),
      { kind: "changed", logIndex: 40 },
    ],
    "forged beside the true one": [
      (all) => [...all, changed(auditRecordAt(199))],
      { kind: "conflicting", logIndex: 199 },
    ],
    "forged behind the end": [(all) => [...all, auditRecordAt(200)], { kind: "unsigned", logIndex: 200 }],
  };

  test.each(Object.entries(wrong))("%s", async (_, [tamper, finding]) => {
    const scene = await signedScene(200, tamper);
    const folder = stage().newFolder();
    const failure = await replayInto(folder, request, plain, scene.deps).catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(Found);
    expect((failure as Found).finding).toMatchObject(finding);
    expect(await readdir(folder)).toEqual([]);
    const { manifest } = await replayInto(folder, request, { ...plain, allowUnverified: true }, scene.deps);
    expect(manifest.verified).toBeNull();
    expect(manifest.unverified).toContain((finding as { kind: string }).kind);
  });

  test("what is no record at all is told by its place in Kafka", async () => {
    const scene = await signedScene(20);
    await stage().producer.append([{ topic: scene.topic.name, key: "k", value: Buffer.from("no Avro"), headers: {} }]);
    const failure = await replayInto(stage().newFolder(), request, plain, scene.deps).catch((error: unknown) => error);
    expect((failure as Found).finding).toMatchObject({ kind: "unreadable", logIndex: null });
  });
});
