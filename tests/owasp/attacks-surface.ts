/** API7 to API10: addresses that the service would call, what it says of itself, what it serves besides, and what stands behind it. */
import { readFile } from "node:fs/promises";
import { expect } from "vitest";
import { z } from "zod";
import type { HttpDeps } from "../../api/http/route.ts";
import { type Attack, onStage, type Stage } from "./attack.ts";
import { type Ask, told } from "./world.ts";

const ADDRESS =
  /(^|_)(ur[il]|href|host|hostname|address|endpoint|callback|webhook|redirect|jwks|domain|proxy|image|link)(_|$)/i;

/** Names of members, at any depth. */
function namesIn(schema: unknown): string[] {
  if (typeof schema !== "object" || schema === null) return [];
  return Object.entries(schema).flatMap(([name, value]) => [
    ...(name === "properties" ? Object.keys(value) : []),
    ...namesIn(value),
  ]);
}

export const requestForgeryAttacks = {
  "it takes no address that the service would call": async (stage) => {
    const { path, query, body } = stage.target.route.request;
    const names = [path, query, body].flatMap((schema) =>
      schema === undefined ? [] : namesIn(z.toJSONSchema(schema, { io: "input", unrepresentable: "any" })),
    );
    expect(names.filter((name) => ADDRESS.test(name))).toEqual([]);
    // The law would see one: of the call that takes an address.
    expect(["url", "jwks_uri", "callback_url"].every((name) => ADDRESS.test(name))).toBe(true);
    stage.world.judged += 1;
  },
  "webhooks at places inside the network, in every spelling": async (stage) => {
    const urls = [
      ...[
        "http://agent.example.com/",
        "https://localhost/",
        "https://LOCALHOST./",
        "https://127.0.0.1/",
        "https://127.1/",
      ],
      ...[
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0177.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:7f00:1]/",
      ],
      ...["https://169.254.169.254/latest/meta-data/", "https://[fd00:ec2::254]/", "https://10.0.0.1/", "https://0/"],
      ...[
        "https://①②⑦.⓪.⓪.①/",
        "https://127。0。0。1/",
        "https://metadata/",
        "https://redis:6379/",
        "https://a.example:22/",
      ],
      ...[
        "https://user:pass@a.example/",
        "https://a.example/#@127.0.0.1",
        "https://a.example:6379:443/",
        "https:/\\127.0.0.1/",
      ],
      ...[
        "gopher://a.example/",
        "file:///etc/passwd",
        "ftp://a.example/",
        "javascript:alert(1)",
        "//a.example/",
        "unix:/run/x.sock",
      ],
    ];
    for (const url of urls) {
      const body = { kind: "webhook", url };
      await stage.refused(["webhook-refused", "malformed"], { ...stage.example(), body }, {}, url);
    }
    expect(urls.length).toBeGreaterThan(20);
  },
} satisfies Record<string, Attack>;

function expectPlainHeaders({ headers }: { readonly headers: Headers }): void {
  expect(headers.get("cache-control")).toBe("no-store");
  expect(headers.get("x-content-type-options")).toBe("nosniff");
  for (const name of ["x-powered-by", "server", "etag", "set-cookie", "via", "x-aspnet-version"]) {
    expect(headers.get(name), name).toBeNull();
  }
  for (const name of headers.keys()) expect(name).not.toMatch(/^access-control-/);
}

/** Ports that say who calls, and those of the process itself: with them broken no call would get as far as its operation. */
const TOLD_APART: readonly string[] = [
  ...["now", "counted", "onBug", "redisReady", "findAgents", "findSigningKey", "addressOf", "openEvents", "answered"],
];

const SECRET = "row 17 of alice's diary at /srv/sealpost/store/postgres.ts:42";

function brokenDoors(deps: HttpDeps): Partial<HttpDeps> {
  const fail = () => {
    throw new Error(SECRET);
  };
  // Thrown at once, where a promise is due, it would keep others that have begun from being waited for.
  const reject = async () => fail();
  const broken = (value: unknown): unknown => {
    if (typeof value === "function") return value.constructor === reject.constructor ? reject : fail;
    if (typeof value !== "object" || value === null || value.constructor !== Object) return value;
    return Object.fromEntries(Object.entries(value).map(([name, member]) => [name, broken(member)]));
  };
  const chosen = Object.entries(deps).filter(([name, value]) => {
    const isDoor =
      typeof value === "function" || ["items", "receipts", "digests", "limits", "custody", "room"].includes(name);
    return isDoor && !TOLD_APART.includes(name);
  });
  return Object.fromEntries(chosen.map(([name, value]) => [name, broken(value)])) as Partial<HttpDeps>;
}

export const configurationAttacks = {
  "headers of answers and refusals": async (stage) => {
    expectPlainHeaders(await stage.ask(stage.example()));
    expectPlainHeaders(
      await stage.ask({ ...stage.example(), as: null, path: `${stage.example().path.split("?")[0]}/x` }),
    );
    expectPlainHeaders(await stage.ask({ ...stage.example(), as: null }));
    stage.world.judged += 1;
  },
  "a page of another origin": async (stage) => {
    const headers = { origin: "https://evil.example" };
    expectPlainHeaders(await stage.ask({ ...stage.example(), headers }));
    const preflight: Ask = {
      ...{ method: "OPTIONS", path: stage.example().path, as: null },
      headers: { ...headers, "access-control-request-method": "POST", "access-control-request-headers": "signature" },
    };
    const answer = await stage.refused(["method-not-allowed"], preflight);
    expectPlainHeaders(answer);
  },
  "other methods": async (stage) => {
    const { path } = stage.example();
    for (const method of ["PATCH", "OPTIONS", "PROPFIND", "LINK"]) {
      await stage.refused(["method-not-allowed"], { method, path, as: null }, {}, method);
    }
  },
  "something inside fails: the answer says nothing of it": async (stage) => {
    await onStage(stage.target, async (broken) => {
      const example = broken.example();
      const doors = brokenDoors(broken.world.service.ports);
      expect(Object.keys(doors).length).toBeGreaterThan(20);
      Object.assign(broken.world.service.ports, doors);
      const { text, status, json } = await broken.ask(example);
      expect(text).not.toMatch(/diary|postgres\.ts|node_modules|\n\s+at /);
      if (status >= 500 && json?.ready === undefined) {
        expect([status, json.code]).toEqual([500, "internal"]);
        expect(Object.keys(json).toSorted()).toEqual(["code", "detail", "fix", "retryable", "status", "title", "type"]);
        expect(broken.world.service.ports.bugs.map(String)).toEqual([`Error: ${SECRET}`]);
      }
      stage.world.judged += 1;
    });
  },
} satisfies Record<string, Attack>;

export const mediaTypeAttacks = {
  "a body of another type, or compressed": async (stage) => {
    for (const type of [
      "text/plain",
      "application/x-www-form-urlencoded",
      "multipart/form-data",
      "application/xml",
      "",
    ]) {
      const ask = stage.example();
      const headers = { ...ask.headers, "content-type": type };
      await stage.world.expectRefused(() => typed(stage, { ...ask, headers }), ["unsupported-media-type"], type);
    }
    const headers = { "content-type": "application/json", "content-encoding": "gzip" };
    const ask = { ...stage.example(), headers };
    await stage.world.expectRefused(() => typed(stage, ask), ["unsupported-media-type"], "gzip");
  },
} satisfies Record<string, Attack>;

/** With the example's own content type, also where a token proves the caller. */
async function typed(stage: Stage, ask: Ask) {
  if (ask.as !== null && "identity" in ask.as) return stage.ask(ask);
  const authorization = ask.as === null ? {} : { authorization: `Bearer ${ask.as.bearer}` };
  const url = stage.world.urlOf(stage.target.port, ask.path);
  const headers = { ...ask.headers, ...authorization };
  return told(await fetch(url, { method: ask.method, headers, body: JSON.stringify(ask.body) }));
}

export const inventoryAttacks = {
  "it stands in the document of its port, and in docs/api.md": async ({ target, world }) => {
    const { path, method, operationId } = target.route;
    const bearer = world.service.ports.opsToken ?? "";
    const { json } = await world.ask(target.port, { method: "GET", path: "/openapi.json", as: { bearer } });
    expect(json.paths[path]?.[method.toLowerCase()]?.operationId).toBe(operationId);
    const page = await readFile(new URL("../../docs/api.md", import.meta.url), "utf8");
    expect(page).toContain(`\`${method} ${path}\``);
    world.judged += 1;
  },
  "other spellings of its path, and old or hidden versions of it": async (stage) => {
    const { path, ...ask } = stage.example();
    const [bare = "", query] = path.split("?");
    const rest = query === undefined ? "" : `?${query}`;
    const spellings = [
      ...[
        `${bare}/`,
        `/${bare}`,
        `${bare}//`,
        `${bare}.json`,
        `${bare};v=1`,
        `${bare}%00`,
        `${bare}/..;/`,
        `${bare}%2f`,
      ],
      ...[`/v0${bare}`, `/v1${bare}`, `/api${bare}`, `/internal${bare}`, `/beta${bare}`, `/test${bare}`],
      ...[bare.replace(/^\/(\w)/, (_, first: string) => `/${first.toUpperCase()}`), `${bare}/debug`],
    ];
    for (const spelling of spellings) {
      const codes = ["not-found", "malformed", "method-not-allowed"];
      await stage.refused(codes, { ...ask, path: spelling + rest }, {}, spelling);
    }
  },
} satisfies Record<string, Attack>;

export const consumptionAttacks = {
  "what stands behind it is away: it goes on or says so, and nothing is half done": async (stage) => {
    for (const door of ["kafka", "postgres", "redis"] as const) {
      await onStage(stage.target, async (away) => {
        await expectGoesOnOrSaysSo(away, door);
        stage.world.judged += 1;
      });
    }
  },
} satisfies Record<string, Attack>;

async function expectGoesOnOrSaysSo(stage: Stage, door: "kafka" | "postgres" | "redis"): Promise<void> {
  const example = stage.example();
  stage.world.service.ports.away.add(door);
  const before = stage.world.state();
  const answer = await stage.ask(example);
  if (answer.status < 500) {
    expect([200, 201, 202, 426], answer.text).toContain(answer.status);
    return;
  }
  expect(answer.status, answer.text).toBe(503);
  expect(stage.world.state()).toEqual(before);
  // Of the probe it is the very question what is away.
  if (stage.target.name === "ready") return;
  expect(answer.json).toMatchObject({ code: "unavailable", retryable: true });
  expect(Number(answer.headers.get("retry-after"))).toBeGreaterThan(0);
  expect(answer.text).not.toMatch(/kafka|postgres|redis/i);
}
