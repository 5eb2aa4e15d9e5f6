import type { RequestListener } from "node:http";
import { afterEach, beforeEach, expect, test } from "vitest";
import { Unavailable } from "../../protocol/refusal.ts";
import { type OidcProvider, startOidcProvider } from "../../tests/oidc-provider.ts";
import { discoveredKeys, isFetchable, keysFrom } from "./issuer-keys.ts";
import { oidcIssuer } from "./oidc.ts";

const audience = "https://sealpost.example";
const configuration = "/.well-known/openid-configuration";

let provider: OidcProvider;
beforeEach(async () => {
  provider = await startOidcProvider();
});
afterEach(() => provider.close());

function issuerWith(keys = discoveredKeys(provider.issuer)) {
  const scopes = { register: "register", manage: "manage" };
  return oidcIssuer(provider.issuer, { audience, algorithms: ["RS256"], scopes }, keys);
}

const token = () => provider.token("user-1", audience, "register");
const asked = { to: "register", keyId: "k" } as const;

const json =
  (value: unknown, status = 200): RequestListener =>
  (_, response) =>
    response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(value));

test("keys are found by the issuer's configuration, and asked for once", async () => {
  const issuer = issuerWith();
  for (let n = 0; n < 3; n++) {
    expect(await issuer.check(await token(), asked, Date.now())).toEqual({
      issuer: provider.issuer,
      subject: "user-1",
    });
  }
  expect([...provider.asked]).toEqual([
    [configuration, 1],
    ["/keys", 1],
  ]);
});

test("a made-up key id has nothing fetched again at once", async () => {
  const issuer = issuerWith(keysFrom(new URL(`${provider.issuer}/keys`)));
  await issuer.check(await token(), asked, Date.now());
  const [, payload, signature] = (await token()).split(".");
  for (let n = 0; n < 3; n++) {
    const header = Buffer.from(JSON.stringify({ alg: "RS256", kid: `made-up-${n}` })).toString("base64url");
    const forged = issuer.check(`${header}.${payload}.${signature}`, asked, Date.now());
    await expect(forged).rejects.toMatchObject({ rule: "key" });
  }
  expect(provider.asked.get("/keys")).toBe(1);
});

test.each<[string, string, (issuer: string) => RequestListener]>([
  [
    "a configuration of another issuer",
    configuration,
    (issuer) => json({ issuer: "https://other.example", jwks_uri: `${issuer}/keys` }),
  ],
  ["a configuration without an address of keys", configuration, (issuer) => json({ issuer })],
  ["keys over plain http elsewhere", configuration, (issuer) => json({ issuer, jwks_uri: "http://keys.example/keys" })],
  ["a configuration that is not there", configuration, () => json({}, 404)],
  ["a configuration that is no object", configuration, () => json(null)],
  [
    "a redirection to another place",
    configuration,
    (issuer) => (_, response) => response.writeHead(302, { location: `${issuer}/keys` }).end(),
  ],
  ["keys that are not there", "/keys", () => json({}, 500)],
  ["keys that are none", "/keys", () => json({ keys: 1 })],
  [
    "keys behind a redirection",
    "/keys",
    (issuer) => (_, response) => response.writeHead(302, { location: `${issuer}/other` }).end(),
  ],
  ["more keys than anybody has", "/keys", () => json({ keys: [], padding: "a".repeat(300 * 1024) })],
  ["a connection that breaks", "/keys", () => (request) => request.socket.destroy()],
])("%s: the token is not judged, and the call may be made again", async (_, path, instead) => {
  provider.instead.set(path, instead(provider.issuer));
  const judged = issuerWith().check(await token(), asked, Date.now());
  await expect(judged).rejects.toThrow(Unavailable);
  await expect(judged).rejects.toMatchObject({ door: "issuer" });
});

test("an issuer that does not answer is waited for three seconds", async () => {
  provider.instead.set("/keys", () => undefined);
  const since = performance.now();
  await expect(issuerWith().check(await token(), asked, Date.now())).rejects.toThrow(Unavailable);
  expect(performance.now() - since).toBeLessThan(6_000);
}, 10_000);

test("an issuer that comes back is asked again soon", async () => {
  let nowMs = Date.now();
  const issuer = issuerWith(discoveredKeys(provider.issuer, () => nowMs));
  provider.instead.set(configuration, json({}, 503));
  await expect(issuer.check(await token(), asked, Date.now())).rejects.toThrow(Unavailable);
  provider.instead.delete(configuration);
  await expect(issuer.check(await token(), asked, Date.now())).rejects.toThrow(Unavailable);
  expect(provider.asked.get(configuration)).toBe(1);
  nowMs += 3_000;
  expect(await issuer.check(await token(), asked, Date.now())).toMatchObject({ subject: "user-1" });
});

test("keys come over https, or from this machine", () => {
  const yes = ["https://id.example/keys", "http://127.0.0.1:8080/k", "http://localhost/k", "http://[::1]:1/k"];
  const no = [
    "http://id.example",
    "http://127.0.0.1.id.example",
    "ftp://id.example",
    "file:///k",
    "https://u:p@id.example",
    "",
    "keys",
  ];
  expect(yes.filter(isFetchable)).toEqual(yes);
  expect(no.filter(isFetchable)).toEqual([]);
});
