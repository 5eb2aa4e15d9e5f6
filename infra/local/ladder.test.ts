import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { parse } from "yaml";
import { downloadedMb, underWayMb } from "./binaries.ts";
import { images, whyNoEngine } from "./containers.ts";
import { majorOf } from "./java.ts";
import { type Env, explainFailure, givenUrl, serverNames, urlVariables, waysToTry, withoutPassword } from "./ladder.ts";
import { kafkaSettings } from "./local-kafka.ts";

const noEngine = "no container engine answers: there is no socket.";

describe("the ladder", () => {
  const cases: readonly [string, Env, string | null, readonly string[]][] = [
    ["a given URL is the only way, even where an engine answers", { SEALPOST_REDIS_URL: "redis://x" }, null, ["given"]],
    [
      "a given URL beats a wish for a way",
      { SEALPOST_REDIS_URL: "redis://x", SEALPOST_STACK_WAY: "local" },
      null,
      ["given"],
    ],
    ["a container comes before a local process", {}, null, ["container", "local"]],
    ["without an engine only a local process is tried", {}, noEngine, ["local"]],
    ["an empty variable gives nothing", { SEALPOST_REDIS_URL: " " }, noEngine, ["local"]],
    ["a URL for another server changes nothing", { SEALPOST_POSTGRES_URL: "postgres://x" }, noEngine, ["local"]],
    ["local leaves the container out", { SEALPOST_STACK_WAY: "local" }, null, ["local"]],
    ["container leaves the local process out", { SEALPOST_STACK_WAY: "container" }, null, ["container"]],
    ["container without an engine leaves nothing", { SEALPOST_STACK_WAY: "container" }, noEngine, []],
  ];
  test.each(cases)("%s", (_law, env, engineMissing, ways) => {
    expect(waysToTry("redis", env, engineMissing)).toEqual(ways);
  });

  test("every server has its own variable", () => {
    expect(new Set(serverNames.map((name) => urlVariables[name])).size).toBe(serverNames.length);
    for (const name of serverNames) expect(givenUrl(name, { [urlVariables[name]]: "somewhere" })).toBe("somewhere");
  });
});

describe("the message when nothing worked", () => {
  test("names all three ways and what was tried", () => {
    const text = explainFailure(
      [{ server: "redis", attempts: [{ way: "local", outcome: "no redis-server on the PATH." }] }],
      {},
      noEngine,
    );
    expect(text).toContain("SEALPOST_REDIS_URL");
    expect(text).toContain("A container: no container engine answers");
    expect(text).toContain("A local process: no redis-server on the PATH.");
  });

  test("tells of a container that failed before the local process did", () => {
    const attempts = [
      { way: "container", outcome: "the image could not be pulled." },
      { way: "local", outcome: "Java is missing." },
    ] as const;
    const text = explainFailure([{ server: "kafka", attempts }], {}, null);
    expect(text).toContain("A container: the image could not be pulled.");
    expect(text).toContain("A local process: Java is missing.");
  });

  test("says that a way was left out by wish", () => {
    const text = explainFailure([{ server: "kafka", attempts: [] }], { SEALPOST_STACK_WAY: "container" }, noEngine);
    expect(text).toContain('left out, because SEALPOST_STACK_WAY is "container"');
  });

  test("speaks only of the variable when a given server does not answer", () => {
    const env = { SEALPOST_REDIS_URL: "redis://127.0.0.1:1" };
    const attempts = [{ way: "given", outcome: "nothing answers at redis://127.0.0.1:1." }] as const;
    const text = explainFailure([{ server: "redis", attempts }], env, noEngine);
    expect(text).toContain("SEALPOST_REDIS_URL, but nothing answers");
    expect(text).not.toContain("local process");
  });

  test("never shows a password", () => {
    expect(withoutPassword("postgres://me:s3cret@db:5432/x")).toBe("postgres://me:***@db:5432/x");
    expect(withoutPassword("redis://:s3cret@cache:6379")).toBe("redis://:***@cache:6379");
    expect(withoutPassword("redis://cache:6379")).toBe("redis://cache:6379");
  });
});

describe("what is around the ladder", () => {
  test("an engine that does not answer is a reason in words", async () => {
    const reason = await whyNoEngine({ DOCKER_HOST: "tcp://127.0.0.1:1" });
    // Where an engine does answer by another door, there is no reason to give.
    if (reason !== null) expect(reason).toContain("no container engine answers");
  });

  test("Java's own words for its version are understood", () => {
    expect(majorOf('openjdk version "17.0.15" 2025-04-15')).toBe(17);
    expect(majorOf('java version "1.8.0_392"')).toBe(8);
    expect(majorOf('openjdk version "26" 2026-03-17')).toBe(26);
    expect(majorOf("The operation couldn't be completed.")).toBeNull();
  });

  test("Maven's own words are turned into megabytes", () => {
    const finished =
      "Downloaded from central: a.jar (5.0 MB at 9 MB/s)\nDownloaded from central: b.pom (500 kB at 1 MB/s)\n";
    expect(downloadedMb(finished)).toBeCloseTo(5.5);
    expect(underWayMb("Progress (1): 27/142 MB\r")).toBeCloseTo(27);
    expect(underWayMb("Progress (2): 1.5/4.0 MB | 250/500 kB\rProgress (2): 2.5/4.0 MB | 500/500 kB\r")).toBeCloseTo(3);
  });

  test("a client behind a proxy is told the proxy's port and no other", () => {
    const settings = kafkaSettings("/x", {
      main: 1001,
      controller: 1002,
      extra: [{ listenPort: 1003, advertisedPort: 9 }],
    });
    expect(settings["listeners"]).toContain("PROXIED0://127.0.0.1:1003");
    expect(settings["advertised.listeners"]).toContain("PROXIED0://127.0.0.1:9");
    expect(settings["advertised.listeners"]).not.toContain("1003");
  });
});

describe("docker-compose.yml", () => {
  interface Service {
    readonly image?: string;
    readonly environment: Readonly<Record<string, string>>;
    readonly healthcheck?: { readonly test: readonly string[] };
    readonly depends_on?: Readonly<Record<string, { readonly condition: string }>>;
    readonly ports?: readonly string[];
  }
  const file = readFileSync(join(import.meta.dirname, "..", "..", "docker-compose.yml"), "utf8");
  const { services } = parse(file) as { services: Readonly<Record<string, Service>> };

  test("runs the same images as the ladder, each with a health check", () => {
    for (const name of serverNames) {
      expect(services[name]?.image).toBe(images[name]);
      expect(services[name]?.healthcheck?.test.length).toBeGreaterThan(1);
    }
  });

  test("starts the service with every URL, once all four are healthy", () => {
    const service = services["service"];
    for (const name of serverNames) {
      expect(service?.environment[urlVariables[name]]).toContain(name);
      expect(service?.depends_on?.[name]).toEqual({ condition: "service_healthy" });
    }
  });

  test("publishes nothing beyond this machine", () => {
    const published = Object.values(services).flatMap(({ ports }) => ports ?? []);
    expect(published.length).toBe(5);
    for (const port of published) expect(port).toMatch(/^127\.0\.0\.1:/);
  });

  test("gives the broker the settings that the local process has", () => {
    const local = kafkaSettings("/x", { main: 1, controller: 2, extra: [] });
    const composed = services["kafka"]?.environment ?? {};
    for (const name of [
      "auto.create.topics.enable",
      "log.message.timestamp.type",
      "group.initial.rebalance.delay.ms",
    ]) {
      expect(composed[`KAFKA_${name.replaceAll(".", "_").toUpperCase()}`]).toBe(local[name]);
    }
  });
});
