import { expect, test } from "vitest";
import type { AuditRecord } from "../schemas/values.ts";
import { auditRecordAt } from "../tests/audit-records.ts";
import { openReplayScene, type ReplayScene, useReplayStage } from "../tests/replay-stage.ts";
import { SignedLog } from "../tests/signed-log.ts";
import { Found } from "./finding.ts";
import { replayInto } from "./replay.ts";
import type { ReplayRequest } from "./request.ts";

const stage = useReplayStage();
const BEGIN = Date.now() - 5 * 24 * 60 * 60 * 1000;
const second = (n: number) => BEGIN + n * 1_000;

/** One a second, in Kafka half a second later. Of the range those of the seconds 100 to 199 are chosen; those of 40 to 209 are read. */
const all = Array.from({ length: 300 }, (_, n) => ({ ...auditRecordAt(n), occurredAt: second(n) }));
const request: ReplayRequest = {
  ...{ from: second(100), to: second(200), late_ms: 10_000 },
  ...{ agents: [], actions: [], format: "jsonl", records_per_file: 250_000 },
};
const soon = ({ occurredAt }: AuditRecord) => occurredAt + 500;

async function sceneOf(inKafka: readonly AuditRecord[], appendedMs = soon, signed = [250, 300]): Promise<ReplayScene> {
  const scene = await openReplayScene(stage(), true);
  let begin = 0;
  for (const end of signed) {
    scene.signed.append(all.slice(begin, end));
    scene.signed.sign();
    begin = end;
  }
  await scene.publishAt(inKafka, appendedMs);
  return scene;
}

async function replayed({ deps }: ReplayScene, some: Partial<ReplayRequest> = {}) {
  const options = { force: false, allowUnverified: false };
  return (await replayInto(stage().newFolder(), { ...request, ...some }, options, { ...deps, now: Date.now })).manifest;
}

async function findingOf(scene: ReplayScene, some: Partial<ReplayRequest> = {}): Promise<unknown> {
  const failure = await replayed(scene, some).catch((error: unknown) => error);
  expect(failure).toBeInstanceOf(Found);
  return (failure as Found).finding;
}

const without = (first: number, last: number) => all.filter(({ logIndex }) => logIndex < first || logIndex > last);

test("from the record before what is read to the one behind it all is proven, against the first checkpoint that has it", async () => {
  const manifest = await replayed(await sceneOf(all));
  expect(manifest).toMatchObject({ records: 100, places: { first: 39, last: 210 }, closed: true, trimmed: [] });
  expect(manifest.verified?.checkpoint.split("\n")[1]).toBe("250");
});

test.each([
  ["the first of a range", 100, 119],
  ["the last of a range", 150, 199],
  ["all of a range", 100, 199],
  ["all that is read", 40, 209],
])("%s cannot be missing unseen", async (_, first, last) => {
  expect(await findingOf(await sceneOf(without(first, last)))).toMatchObject({ kind: "missing", logIndex: first });
});

test("the only record of an agent cannot be missing unseen, and that there is none can be proven", async () => {
  const agents = [all[150]?.actor ?? ""];
  const nobody = await replayed(await sceneOf(all), { agents: [all[290]?.actor ?? ""], actions: ["none"] });
  expect(nobody).toMatchObject({ records: 0, places: { first: 39, last: 210 }, unverified: null, closed: true });
  expect(await findingOf(await sceneOf(without(150, 150)), { agents, actions: ["message.*"] })).toMatchObject({
    ...{ kind: "missing", logIndex: 150 },
  });
});

test("a record that is forged before or behind a window draws its edges no closer", async () => {
  const forged = { ...auditRecordAt(180), occurredAt: second(30), outcome: "forged" };
  const before = await sceneOf(
    [...all.slice(0, 40), forged, ...all.slice(40)].filter((one) => one !== all[180]),
    soon,
  );
  expect(await findingOf(before)).toMatchObject({ kind: "changed", logIndex: 180 });
  const early = { ...auditRecordAt(120), occurredAt: second(209.9), outcome: "forged" };
  const behind = await sceneOf([...without(120, 199).slice(0, 130), early, ...all.slice(210)], soon);
  expect(await findingOf(behind)).toMatchObject({ kind: "changed", logIndex: 120 });
});

test("an audit that was away for longer than --late is waited for", async () => {
  const away = ({ occurredAt }: AuditRecord) =>
    Math.max(occurredAt + 500, occurredAt < second(150) ? 0 : second(11_000));
  expect(await replayed(await sceneOf(all, away))).toMatchObject({ records: 100, places: { first: 39 } });
});

test("a range is closed only when a signed record is known behind it", async () => {
  const nothingBehind = await sceneOf(all.slice(0, 205), soon, [205]);
  expect(await replayed(nothingBehind)).toMatchObject({ records: 100, places: { last: 204 }, closed: false });
  const unsigned = await sceneOf(all, soon, [205]);
  expect(await replayed(unsigned)).toMatchObject({ records: 100, places: { last: 204 }, closed: false });
});

test("a log whose beginning was taken, the range with it, is no proof that nothing was there", async () => {
  const scene = await sceneOf(all);
  const kept = await stage().kafka.ask((admin) => admin.fetchTopicOffsets(scene.topic.name));
  const partitions = kept.map(({ partition }) => ({ partition, offset: "54" }));
  await stage().kafka.ask((admin) => admin.deleteTopicRecords({ topic: scene.topic.name, partitions }));
  expect(await findingOf(scene)).toMatchObject({ kind: "missing" });
});

test("after the log's key was changed, what was signed before is proven under the older key, if that is trusted", async () => {
  const scene = await sceneOf(all, soon, [250]);
  const changed = new SignedLog("changed.test/audit");
  changed.append(all);
  changed.sign();
  const checkpoint = (least?: number) => (least === undefined ? changed : scene.signed).checkpoint(least);
  const [older, newer] = [scene.signed.verifierKey, changed.verifierKey];
  const trusting = (...keys: string[]): ReplayScene => {
    const log = { checkpoint, inclusion: scene.signed.inclusion, keysFor: async () => keys };
    return { ...scene, deps: { ...scene.deps, log } };
  };
  const { verified } = await replayed(trusting(newer, older));
  expect(verified).toMatchObject({ verifier_key: older, checkpoint: expect.stringContaining("\n250\n") });
  // The newest checkpoint is opened first, then the one that has the range: each can fail, and each failure can be allowed.
  for (const [key, why] of [
    [newer, "unproven"],
    [older, "no checkpoint vouches for it"],
  ] as const) {
    expect(await findingOf(trusting(key))).toMatchObject({ kind: "unproven" });
    const options = { force: false, allowUnverified: true };
    const { manifest } = await replayInto(stage().newFolder(), request, options, trusting(key).deps);
    expect(manifest).toMatchObject({ records: 100, verified: null, unverified: expect.stringContaining(why) });
  }
});
