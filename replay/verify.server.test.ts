import { cp, readFile, rename, rm, truncate, writeFile } from "node:fs/promises";
import path from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { nodePrimitives as proving } from "../protocol/primitives/node.ts";
import type { AuditRecord } from "../schemas/values.ts";
import { auditRecordAt, RECORDS_BEGIN } from "../tests/audit-records.ts";
import { LATE_FOR_EVER, openReplayScene, type ReplayScene, useReplayStage } from "../tests/replay-stage.ts";
import { SignedLog } from "../tests/signed-log.ts";
import { openSigned } from "./audit-log.ts";
import { rowFormats } from "./formats/format.ts";
import { replayInto } from "./replay.ts";
import type { Format, ReplayRequest } from "./request.ts";
import { rowOf } from "./rows.ts";
import { type Trusted, verifyFiles } from "./verify-files.ts";
import { verifyLive } from "./verify-live.ts";
import { digestOf } from "./writing.ts";

const stage = useReplayStage();
const COUNT = 900;
const all = Array.from({ length: COUNT }, (_, n) => auditRecordAt(n));
const changed = (record: AuditRecord) => ({ ...record, outcome: "forged" });

async function signedScene(inKafka = all, signed = all): Promise<ReplayScene> {
  const scene = await openReplayScene(stage());
  scene.signed.append(signed);
  scene.signed.sign();
  await scene.publish(inKafka);
  return scene;
}

describe("a replay's folder", () => {
  let scene: ReplayScene;
  const made: Record<string, string> = {};

  beforeAll(async () => {
    scene = await signedScene();
    for (const format of ["jsonl", "csv", "parquet"] as const) {
      const request: ReplayRequest = {
        ...{ from: RECORDS_BEGIN, to: RECORDS_BEGIN + 1_000_000, late_ms: LATE_FOR_EVER, format },
        ...{ agents: [], actions: ["message.*"], records_per_file: 300 },
      };
      // The time of a record differs from its place by up to 4: choosing by place is choosing by both.
      const [from, to] = [request.from + 100, request.from + 804];
      made[format] = stage().newFolder();
      await replayInto(made[format], { ...request, from, to }, { force: false, allowUnverified: false }, scene.deps);
    }
  });

  async function verify(
    folder: string,
    options: { verifierKey?: string; only?: string; head?: Trusted["head"]; manifestSha256?: string } = {},
  ) {
    const { verifierKey = null, only = null, head = null, manifestSha256 = null } = options;
    const trusted = { head, manifestSha256 };
    const [signal, onVerified] = [new AbortController().signal, () => undefined];
    const verifierKeys = verifierKey === null ? [] : [verifierKey];
    return verifyFiles(folder, { proving, verifierKeys, trusted, only, signal, onVerified });
  }

  /** As whoever keeps checkpoints has it. */
  async function headOf({ signed }: ReplayScene) {
    const { size, root } = openSigned(proving, [signed.verifierKey], (await signed.checkpoint()) ?? "");
    return { size, root };
  }

  async function copyOf(format: Format): Promise<string> {
    const folder = stage().newFolder();
    await cp(made[format] ?? "", folder, { recursive: true });
    return folder;
  }

  /** Another file in its place, of these records. */
  async function rewrite(folder: string, name: string, format: Format, records: readonly AuditRecord[]): Promise<void> {
    const writer = await rowFormats[format].create(path.join(folder, name));
    await writer.write(records.map(rowOf));
    await writer.close();
  }

  async function recordsOf(folder: string): Promise<{ first: number; last: number; records: number }[]> {
    const manifest = JSON.parse(await readFile(path.join(folder, "manifest.json"), "utf8"));
    return manifest.files.map((file: Record<string, number>) => {
      return { first: file["first_log_index"], last: file["last_log_index"], records: file["records"] };
    });
  }

  test.each(["jsonl", "csv", "parquet"] as const)("as it was made is all right: %s", async (format) => {
    const folder = made[format] ?? "";
    const files = await recordsOf(folder);
    const records = files.reduce((sum, file) => sum + file.records, 0);
    expect(records).toBeGreaterThan(590);
    const verified = await verify(folder, { verifierKey: scene.signed.verifierKey });
    expect(verified).toEqual({ finding: null, records, checkpoint: { origin: "sealpost.test/audit", size: COUNT } });
  });

  const wrong: Readonly<Record<string, [(records: AuditRecord[]) => AuditRecord[], object]>> = {
    changed: [(records) => records.with(20, changed(records[20] as AuditRecord)), { kind: "changed", at: 20 }],
    removed: [(records) => records.toSpliced(20, 1), { kind: "missing", at: 20 }],
    "removed from the end": [(records) => records.slice(0, -1), { kind: "missing", at: 299 }],
    reordered: [
      (records) => records.with(20, records[21] as AuditRecord).with(21, records[20] as AuditRecord),
      { kind: "missing", at: 20 },
    ],
    repeated: [(records) => records.toSpliced(20, 0, records[20] as AuditRecord), { kind: "out-of-order", at: 20 }],
    forged: [
      (records) => {
        const before = records[2] as AuditRecord;
        return records.toSpliced(3, 0, { ...before, logIndex: before.logIndex + 1 });
      },
      { kind: "extra", at: null },
    ],
  };

  describe.each(["jsonl", "csv", "parquet"] as const)("in %s", (format) => {
    test.each(Object.entries(wrong))(
      "with a record %s, the first wrong one is named",
      async (_, [tamper, expected]) => {
        const folder = await copyOf(format);
        const [, second] = await recordsOf(folder);
        if (second === undefined) throw new Error("there are three files");
        const own = all.filter(({ logIndex, action }) => {
          return logIndex >= second.first && logIndex <= second.last && action.startsWith("message.");
        });
        expect(own).toHaveLength(300);
        // A place between two chosen ones, that of a record which is not in the replay.
        const gap = own.findIndex((record, n) => own[n + 1]?.logIndex !== record.logIndex + 1);
        const shifted =
          tamper === wrong["forged"]?.[0] ? own.toSpliced(gap + 1, 0, forgedBehind(own[gap])) : tamper(own);
        await rewrite(folder, fileNameOf(second, format), format, shifted);
        const { kind, at } = expected as { kind: string; at: number | null };
        const logIndex = at === null ? (own[gap]?.logIndex ?? 0) + 1 : own[at]?.logIndex;
        expect((await verify(folder)).finding).toMatchObject({ kind, logIndex });
      },
    );
  });

  function forgedBehind(record: AuditRecord | undefined): AuditRecord {
    if (record === undefined) throw new Error("there is a gap in every file");
    return { ...record, logIndex: record.logIndex + 1 };
  }

  function fileNameOf({ first, last }: { first: number; last: number }, format: Format): string {
    return `audit-${String(first).padStart(12, "0")}-${String(last).padStart(12, "0")}.${format}`;
  }

  test("without one of its files, with another one, or with a file cut off, says so", async () => {
    const gone = await copyOf("jsonl");
    const [first, second] = await recordsOf(gone);
    if (first === undefined || second === undefined) throw new Error("there are three files");
    await rm(path.join(gone, fileNameOf(second, "jsonl")));
    expect((await verify(gone)).finding).toMatchObject({ kind: "missing", logIndex: second.first });
    const more = await copyOf("jsonl");
    await writeFile(path.join(more, "audit-000000000000-000000000001.jsonl"), "");
    expect((await verify(more)).finding).toMatchObject({ kind: "extra" });
    for (const format of ["jsonl", "csv", "parquet"] as const) {
      const cut = await copyOf(format);
      const file = path.join(cut, fileNameOf(first, format));
      await truncate(file, (await readFile(file)).length - 20);
      expect((await verify(cut)).finding, format).not.toBeNull();
    }
  });

  async function withManifest(folder: string, change: (manifest: Record<string, unknown>) => void): Promise<void> {
    const file = path.join(folder, "manifest.json");
    const manifest = JSON.parse(await readFile(file, "utf8"));
    change(manifest);
    await writeFile(file, JSON.stringify(manifest));
  }

  test("without one of its files, also where the manifest has none of it, is missing its records", async () => {
    const folder = await copyOf("jsonl");
    const [, second] = await recordsOf(folder);
    if (second === undefined) throw new Error("there are three files");
    await rm(path.join(folder, fileNameOf(second, "jsonl")));
    await withManifest(folder, (manifest) => {
      manifest["files"] = (manifest["files"] as object[]).toSpliced(1, 1);
      manifest["records"] = Number(manifest["records"]) - second.records;
    });
    expect((await verify(folder)).finding).toMatchObject({ kind: "missing", logIndex: second.first });
  });

  test("whose manifest tells other counts, or has a file twice, says so", async () => {
    const more = await copyOf("jsonl");
    await withManifest(more, (manifest) => {
      manifest["records"] = Number(manifest["records"]) + 1;
    });
    expect((await verify(more)).finding).toMatchObject({ kind: "changed", logIndex: null });
    const other = await copyOf("jsonl");
    await withManifest(other, (manifest) => {
      manifest["by_action"] = { "message.delivered": manifest["records"] };
    });
    expect((await verify(other)).finding).toMatchObject({ kind: "changed", logIndex: null });
    const twice = await copyOf("jsonl");
    await withManifest(twice, (manifest) => {
      const files = manifest["files"] as object[];
      manifest["files"] = [...files, files[0]];
    });
    expect((await verify(twice)).finding).toMatchObject({ kind: "out-of-order" });
  });

  test("whose records are right and whose bytes are not says which file", async () => {
    const folder = await copyOf("jsonl");
    const [first] = await recordsOf(folder);
    const file = path.join(folder, fileNameOf(first ?? { first: 0, last: 0 }, "jsonl"));
    await writeFile(file, (await readFile(file, "utf8")).replace("{", "{ "));
    expect((await verify(folder)).finding).toMatchObject({ kind: "changed", logIndex: null });
  });

  test("whose leaves were changed with a record does not make the signed root", async () => {
    const folder = await copyOf("jsonl");
    const leaves = await readFile(path.join(folder, "leaves.bin"));
    leaves.writeUInt8((leaves[40] ?? 0) ^ 1, 40);
    await writeFile(path.join(folder, "leaves.bin"), leaves);
    expect((await verify(folder)).finding).toMatchObject({ kind: "unproven" });
    const hidden = await copyOf("jsonl");
    const kinds = await readFile(path.join(hidden, "leaves.bin"));
    kinds[33 * 5] = 1 - (kinds[33 * 5] ?? 0);
    await writeFile(path.join(hidden, "leaves.bin"), kinds);
    expect((await verify(hidden)).finding).toMatchObject({ kind: "changed", logIndex: null });
  });

  test("that another key vouches for, or whose checkpoint was changed, is not proven", async () => {
    const other = "other.test/audit+00000000+AWSr";
    expect((await verify(made["jsonl"] ?? "", { verifierKey: other })).finding).toMatchObject({ kind: "unproven" });
    const folder = await copyOf("jsonl");
    const file = path.join(folder, "manifest.json");
    await writeFile(file, (await readFile(file, "utf8")).replace(`\\n${COUNT}\\n`, `\\n${COUNT + 1}\\n`));
    expect((await verify(folder)).finding).toMatchObject({ kind: "unproven" });
  });

  test("that was rewritten as a whole, with the log's own key, is found by the head that somebody kept", async () => {
    const forged = all.with(150, changed(all[150] as AuditRecord));
    const other = await signedScene(forged, forged);
    const folder = stage().newFolder();
    const request: ReplayRequest = {
      ...{ from: RECORDS_BEGIN + 100, to: RECORDS_BEGIN + 804, late_ms: LATE_FOR_EVER, format: "jsonl" },
      ...{ agents: [], actions: ["message.*"], records_per_file: 300 },
    };
    await replayInto(folder, request, { force: false, allowUnverified: false }, other.deps);
    const { verifierKey } = scene.signed;
    expect((await verify(folder, { verifierKey })).finding).toBeNull();
    expect((await verify(folder, { verifierKey, head: await headOf(other) })).finding).toBeNull();
    const head = await headOf(scene);
    expect((await verify(folder, { verifierKey, head })).finding).toMatchObject({ kind: "unproven" });
    expect((await verify(made["jsonl"] ?? "", { head })).finding).toBeNull();
    const earlier = { ...head, size: COUNT - 1 };
    expect((await verify(made["jsonl"] ?? "", { head: earlier })).finding).toMatchObject({
      ...{ kind: "unproven", detail: expect.stringContaining(`--size ${COUNT}`) },
    });
  });

  test("whose manifest tells another range or filter is found by the hash in the log's record", async () => {
    const folder = await copyOf("jsonl");
    const file = path.join(folder, "manifest.json");
    const { sha256: manifestSha256 } = await digestOf(file);
    expect((await verify(folder, { manifestSha256 })).finding).toBeNull();
    await writeFile(file, (await readFile(file, "utf8")).replace('"message.*"', '"message.accepted"'));
    expect((await verify(folder)).finding).toBeNull();
    expect((await verify(folder, { manifestSha256 })).finding).toMatchObject({ kind: "changed", logIndex: null });
  });

  test("can be verified a file at a time, and one that is none of its own is refused", async () => {
    const [, second] = await recordsOf(made["csv"] ?? "");
    if (second === undefined) throw new Error("there are three files");
    const only = fileNameOf(second, "csv");
    expect(await verify(made["csv"] ?? "", { only })).toMatchObject({ finding: null, records: 300 });
    await expect(verify(made["csv"] ?? "", { only: "other.csv" })).rejects.toThrow("is no file of the replay");
    const folder = await copyOf("csv");
    await rename(path.join(folder, "manifest.json"), path.join(folder, "manifest.old"));
    await expect(verify(folder)).rejects.toThrow("has no manifest.json");
  });
});

describe("the live log", () => {
  async function live(scene: ReplayScene) {
    return verifyLive(stage().newFolder(), { ...scene.deps, log: scene.signed });
  }

  test("as it was signed is all right, and newer records are counted", async () => {
    const scene = await signedScene([...all, auditRecordAt(COUNT)]);
    expect(await live(scene)).toEqual({
      ...{ finding: null, places: { first: 0, last: COUNT - 1 }, newer: 1 },
      checkpoint: { origin: "sealpost.test/audit", size: COUNT },
    });
  });

  test.each([
    ["removed", all.toSpliced(333, 1), { kind: "missing", logIndex: 333 }],
    ["removed from its end", all.slice(0, -1), { kind: "missing", logIndex: COUNT - 1 }],
    ["changed", all.with(444, changed(all[444] as AuditRecord)), { kind: "changed", logIndex: 444 }],
    ["forged", [...all, changed(all[5] as AuditRecord)], { kind: "conflicting", logIndex: 5 }],
  ] as const)("with a record %s names it", async (_, inKafka, finding) => {
    expect((await live(await signedScene([...inKafka]))).finding).toMatchObject(finding);
  });

  test("of another key is not proven", async () => {
    const scene = await signedScene();
    const other = new SignedLog("another.test/audit");
    const log = { ...scene.signed, keysFor: other.keysFor };
    await expect(verifyLive(stage().newFolder(), { ...scene.deps, log })).rejects.toMatchObject({
      finding: { kind: "unproven" },
    });
  });

  test("whose beginning retention has taken is checked from where all partitions are whole", async () => {
    const scene = await signedScene();
    const kept = await stage().kafka.ask((admin) => admin.fetchTopicOffsets(scene.topic.name));
    await stage().kafka.ask((admin) =>
      admin.deleteTopicRecords({
        topic: scene.topic.name,
        partitions: [{ partition: kept[0]?.partition ?? 0, offset: "5" }],
      }),
    );
    // All were appended in one minute: nothing is surely whole.
    expect(await live(scene)).toMatchObject({ finding: null, places: null });
  });

  test("with a partition that retention has emptied is checked from what is too young to be taken", async () => {
    const day = 24 * 60 * 60 * 1000;
    const scene = await openReplayScene(stage(), true);
    scene.signed.append(all.slice(0, 8));
    scene.signed.sign();
    // Places 0 to 3 are old; the second partition has 1 alone, and then nothing more.
    const kept = all.slice(0, 8).filter(({ logIndex }) => logIndex !== 5);
    await scene.publishAt(kept, ({ logIndex }) => Date.now() - (logIndex < 4 ? 31 * day : day));
    const partitions = [{ partition: 1, offset: "1" }];
    // The client learns from it who leads the partitions.
    await stage().kafka.ask((admin) => admin.fetchTopicOffsets(scene.topic.name));
    await stage().kafka.ask((admin) => admin.deleteTopicRecords({ topic: scene.topic.name, partitions }));
    const deps = { ...scene.deps, log: scene.signed, now: Date.now };
    expect((await verifyLive(stage().newFolder(), deps)).finding).toMatchObject({ kind: "missing", logIndex: 5 });
    const whole = { ...deps, log: new SignedLog() };
    whole.log.append(all.slice(0, 5));
    whole.log.sign();
    expect(await verifyLive(stage().newFolder(), whole)).toMatchObject({
      finding: null,
      places: { first: 4, last: 4 },
    });
  });
});
