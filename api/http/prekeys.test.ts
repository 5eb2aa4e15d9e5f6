import { randomUUID } from "node:crypto";
import { afterEach, beforeEach, expect, test } from "vitest";
import { encodeBase64Url } from "../../protocol/base64url.ts";
import type { Identity } from "../../protocol/identity.ts";
import { DAY_MS, PREKEY_UPLOAD_MAX } from "../../protocol/limits.ts";
import {
  createKemPrekey,
  createSignedPrekey,
  oneTimePrekeyToJson,
  signedPrekeyToJson,
} from "../../protocol/prekeys.ts";
import { nodePrimitives, nodeRandom } from "../../protocol/primitives/node.ts";
import { addAgent, type InMemoryService, inMemoryService, read } from "../../tests/in-memory-service.ts";
import { call, newIdentity } from "../../tests/signing.ts";

let service: InMemoryService;

beforeEach(async () => {
  service = await inMemoryService();
});
afterEach(async () => {
  expect(service.ports.bugs).toEqual([]);
  await service.http.close();
});

const keyOf = (agent: Identity) => encodeBase64Url(agent.signing.publicKey);

const oneTimeJson = (count: number) =>
  Array.from({ length: count }, () => oneTimePrekeyToJson({ id: randomUUID(), publicKey: nodeRandom(32) }));

const birth = (now: number) => ({ id: randomUUID(), now, random: nodeRandom });

function signedPrekeyJson(owner: Identity, now = Date.now()) {
  return signedPrekeyToJson(createSignedPrekey(nodePrimitives, owner, birth(now)).prekey);
}

function kemPrekeyJson(owner: Identity, now = Date.now()) {
  return signedPrekeyToJson(createKemPrekey(nodePrimitives, owner, { ...birth(now), lastResort: false }).prekey);
}

const claim = (as: Identity, of: Identity, key: string) =>
  service.get(as, `/messaging/prekeys/${of.agentId}`, { "idempotency-key": `"${key}"` });

test("uploaded prekeys are handed out, a one-time key to one claimer", async () => {
  const { alice, bob, post } = service;
  const [oneTime] = oneTimeJson(1);
  const signedPrekey = signedPrekeyJson(bob);
  const uploaded = await post(bob, "/messaging/upload-prekeys", {
    signed_prekey: signedPrekey,
    one_time_prekeys: [oneTime],
  });
  expect([uploaded.status, uploaded.json]).toEqual([
    200,
    { one_time_prekeys_remaining: 1, kem_prekeys_remaining: 0, signed_prekey_id: signedPrekey["id"] },
  ]);
  const claimed = await claim(alice, bob, "first");
  expect(claimed.headers.get("cache-control")).toBe("no-store");
  expect(claimed.json).toEqual({
    bundle: { agent_id: bob.agentId, identity_key: keyOf(bob), signed_prekey: signedPrekey, one_time_prekey: oneTime },
    one_time_prekeys_remaining: 0,
    kem_prekeys_remaining: 0,
    last_resort: false,
  });
  const path = `/messaging/prekeys/${bob.agentId}`;
  expect((await service.get(alice, path, { "idempotency-key": "first" })).json).toEqual(claimed.json);
  const other = await read(await call(alice, { method: "POST", url: service.http.url + path }));
  expect([other.status, other.json.last_resort]).toEqual([200, true]);
  expect(other.json.bundle).not.toHaveProperty("one_time_prekey");
});

test("a bundle holds a KEM prekey: a one-time one while there are any, then the one of last resort", async () => {
  const { alice, bob, post } = service;
  const [kem, lastResort] = [kemPrekeyJson(bob), kemPrekeyJson(bob)];
  const uploaded = await post(bob, "/messaging/upload-prekeys", {
    signed_prekey: signedPrekeyJson(bob),
    last_resort_kem_prekey: lastResort,
    one_time_prekeys: oneTimeJson(2),
    kem_prekeys: [kem],
  });
  expect(uploaded.json).toMatchObject({ one_time_prekeys_remaining: 2, kem_prekeys_remaining: 1 });
  const first = await claim(alice, bob, "first");
  expect(first.json).toMatchObject({ kem_prekeys_remaining: 0, last_resort: false });
  expect(first.json.bundle.kem_prekey).toEqual({ ...kem, last_resort: false });
  const second = await claim(alice, bob, "second");
  expect(second.json).toMatchObject({ one_time_prekeys_remaining: 0, last_resort: true });
  expect(second.json.bundle.kem_prekey).toEqual({ ...lastResort, last_resort: true });
});

test("without prekeys, and for nobody, there is no bundle", async () => {
  const { alice, bob, get } = service;
  expect((await claim(alice, bob, "none")).problem).toMatchObject({ status: 404, code: "prekeys-unavailable" });
  const nobody = newIdentity().agentId;
  expect((await get(alice, `/messaging/prekeys/${nobody}`)).problem).toMatchObject({
    status: 404,
    code: "recipient-unknown",
  });
});

test("who may not be messaged is claimed from as little as messaged", async () => {
  const carol = newIdentity();
  addAgent(service.ports, carol, "suspended");
  expect((await claim(service.alice, carol, "one")).problem.code).toBe("recipient-unknown");
});

test("the eleventh new claim of a pair in an hour is refused with the time to wait; repeats are not, and others are not", async () => {
  const { alice, bob, post } = service;
  const carol = newIdentity();
  addAgent(service.ports, carol);
  for (let n = 0; n < 20; n++) await claim(alice, bob, "before there are any");
  await post(bob, "/messaging/upload-prekeys", {
    signed_prekey: signedPrekeyJson(bob),
    one_time_prekeys: oneTimeJson(20),
  });
  for (let n = 0; n < 10; n++) expect((await claim(alice, bob, `request ${n}`)).status).toBe(200);
  const refused = await claim(alice, bob, "request 10");
  expect(refused.problem).toMatchObject({ status: 429, code: "rate-limited", retryable: true });
  expect(Number(refused.headers.get("retry-after"))).toBeGreaterThan(0);
  expect((await claim(alice, bob, "request 3")).status).toBe(200);
  expect((await claim(carol, bob, "request 0")).json).toMatchObject({ one_time_prekeys_remaining: 9 });
});

test("over the target's budget bundles come without one-time prekeys, never as a refusal; what held none is not counted", async () => {
  await service.http.close();
  service = await inMemoryService({ prekeyBudget: { name: "bundles", points: 2, seconds: 3_600 } });
  const { alice, bob, post } = service;
  const [lastResort, oneTime] = [kemPrekeyJson(bob), oneTimeJson(3)];
  await post(bob, "/messaging/upload-prekeys", { signed_prekey: signedPrekeyJson(bob) });
  for (const key of ["a", "b", "c"]) expect((await claim(alice, bob, key)).json.last_resort).toBe(true);
  await post(bob, "/messaging/upload-prekeys", { last_resort_kem_prekey: lastResort, one_time_prekeys: oneTime });
  for (const key of ["d", "e"]) expect((await claim(alice, bob, key)).json.bundle).toHaveProperty("one_time_prekey");
  for (const key of ["f", "f"]) {
    const { status, json } = await claim(alice, bob, key);
    expect(status).toBe(200);
    expect(json).toMatchObject({ one_time_prekeys_remaining: 1, last_resort: true });
    expect(json.bundle).not.toHaveProperty("one_time_prekey");
    expect(json.bundle.kem_prekey).toEqual({ ...lastResort, last_resort: true });
  }
  expect(service.ports.counts.get("bundles_over_budget")).toBe(1);
});

test("prekeys that do not hold are not stored, and the answer names the one at fault", async () => {
  const { alice, bob, post, ports } = service;
  const upload = async (body: unknown, status: number, code: string, field?: string) => {
    const { problem } = await post(bob, "/messaging/upload-prekeys", body);
    expect(problem).toMatchObject({ status, code, ...(field === undefined ? {} : { field }) });
  };
  const [oneTime] = oneTimeJson(1);
  const [kem, foreignKem] = [kemPrekeyJson(bob), kemPrekeyJson(alice)];
  const foreign = { signed_prekey: signedPrekeyJson(alice), one_time_prekeys: [oneTime] };
  await upload(foreign, 422, "prekey-signature-invalid", "/signed_prekey/signature");
  const moved = { ...signedPrekeyJson(bob), created_at: "2026-01-01T00:00:00.000Z" };
  await upload({ signed_prekey: moved }, 422, "prekey-signature-invalid", "/signed_prekey/signature");
  await upload({ kem_prekeys: [kem, foreignKem] }, 422, "prekey-signature-invalid", "/kem_prekeys/1/signature");
  const resort = { last_resort_kem_prekey: foreignKem };
  await upload(resort, 422, "prekey-signature-invalid", "/last_resort_kem_prekey/signature");
  const ahead = Date.now() + DAY_MS;
  await upload({ signed_prekey: signedPrekeyJson(bob, ahead) }, 400, "malformed", "/signed_prekey/created_at");
  const lateResort = { last_resort_kem_prekey: kemPrekeyJson(bob, ahead) };
  await upload(lateResort, 400, "malformed", "/last_resort_kem_prekey/created_at");
  await upload({ one_time_prekeys: [oneTime, oneTime] }, 400, "malformed", "/one_time_prekeys/1/id");
  await upload({ last_resort_kem_prekey: kem, kem_prekeys: [kem] }, 400, "malformed", "/kem_prekeys/0/id");
  await upload({ one_time_prekeys: oneTimeJson(201) }, 400, "too-many", "/one_time_prekeys");
  await upload({ kem_prekeys: Array(PREKEY_UPLOAD_MAX + 1).fill(kem) }, 400, "too-many", "/kem_prekeys");
  const short = { one_time_prekeys: [{ ...oneTime, public_key: "AAAA" }] };
  await upload(short, 400, "malformed", "/one_time_prekeys/0/public_key");
  await upload({ kem_prekeys: [{ ...kem, public_key: "AAAA" }] }, 400, "malformed", "/kem_prekeys/0/public_key");
  const unreduced = encodeBase64Url(new Uint8Array(1_184).fill(0xff));
  await upload(
    { kem_prekeys: [kem, { ...kemPrekeyJson(bob), public_key: unreduced }] },
    400,
    "malformed",
    "/kem_prekeys/1/public_key",
  );
  await upload({}, 400, "malformed", "");
  await upload({ replace: false, one_time_prekeys: [oneTime] }, 400, "malformed", "/replace");
  expect(ports.prekeys.size).toBe(0);
  expect((await post(bob, "/messaging/upload-prekeys", { one_time_prekeys: [oneTime] })).status).toBe(200);
  const other = { one_time_prekeys: [{ ...oneTime, public_key: encodeBase64Url(nodeRandom(32)) }] };
  await upload(other, 409, "prekey-conflict");
});

test("a replacing upload leaves only its own one-time prekeys", async () => {
  const { bob, post } = service;
  await post(bob, "/messaging/upload-prekeys", { one_time_prekeys: oneTimeJson(5), kem_prekeys: [kemPrekeyJson(bob)] });
  const replaced = await post(bob, "/messaging/upload-prekeys", { one_time_prekeys: oneTimeJson(2), replace: true });
  expect(replaced.json).toEqual({ one_time_prekeys_remaining: 2, kem_prekeys_remaining: 0 });
  const nothing = await post(bob, "/messaging/upload-prekeys", { replace: true });
  expect(nothing.json).toEqual({ one_time_prekeys_remaining: 0, kem_prekeys_remaining: 0 });
});

test("an agent sees what the service holds of its prekeys, and whether a rotation is due", async () => {
  const { bob, get, post } = service;
  const empty = await get(bob, "/messaging/prekeys");
  expect(empty.json).toEqual({
    agent_id: bob.agentId,
    one_time_prekeys: 0,
    kem_prekeys: 0,
    rotation_due: true,
    digest: expect.any(String),
  });
  const upload = async (ageMs: number) => {
    const [signed, lastResort] = [signedPrekeyJson, kemPrekeyJson].map((make) => make(bob, Date.now() - ageMs));
    const body = { signed_prekey: signed, last_resort_kem_prekey: lastResort, one_time_prekeys: oneTimeJson(2) };
    await post(bob, "/messaging/upload-prekeys", body);
    return { signed, lastResort };
  };
  await upload(8 * DAY_MS);
  const old = await get(bob, "/messaging/prekeys");
  expect(old.json).toMatchObject({ one_time_prekeys: 2, rotation_due: true });
  expect(old.json.signed_prekey_age_seconds).toBeGreaterThanOrEqual(8 * 86_400);
  const { signed, lastResort } = await upload(0);
  const { json } = await get(bob, "/messaging/prekeys");
  expect(json).toMatchObject({
    signed_prekey: { id: signed?.["id"], created_at: signed?.["created_at"] },
    last_resort_kem_prekey: { id: lastResort?.["id"], created_at: lastResort?.["created_at"] },
    one_time_prekeys: 4,
    rotation_due: false,
  });
  expect(json.digest).not.toBe(old.json.digest);
});
