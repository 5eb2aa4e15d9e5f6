/**
 * The schema registry as a local process: Apicurio Registry with its Confluent-compatible API.
 *
 * Promises: schemas and their ids survive a restart. They must, because every record in Kafka's log names its schema
 * by id; so the "in-memory" build is given a database file instead of memory.
 */
import { mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import { bundles, CannotRun, fetchBundle, serverEnv, type Workshop } from "./binaries.ts";
import { classArchive, findJava } from "./java.ts";
import type { LocalServer } from "./local-server.ts";
import { askRegistry } from "./readiness.ts";

export async function prepareRegistry(
  shop: Workshop,
  dataDir: string,
  logFile: string,
  port: number,
): Promise<LocalServer> {
  const [java, bundle] = await Promise.all([findJava(shop), fetchBundle(bundles.registry, shop)]);
  const runner = (await readdir(bundle)).find((name) => name.endsWith("-runner.jar"));
  if (runner === undefined)
    throw new CannotRun(`the cache folder ${bundle} holds no registry; remove it and try again.`);
  await mkdir(dataDir, { recursive: true });
  const archive = await classArchive(bundle, java, dataDir);
  const url = `http://127.0.0.1:${port}/apis/ccompat/v7`;
  return {
    name: "registry",
    url,
    title: `Apicurio Registry ${/app-([\d.]+\d)/.exec(runner)?.[1] ?? ""}`.trim(),
    launch: {
      command: java.command,
      args: [
        "-Xmx256m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        ...archive.flags,
        "-Dquarkus.http.host=127.0.0.1",
        `-Dquarkus.http.port=${port}`,
        "-Dquarkus.banner.enabled=false",
        // The default opens 20 database connections before it answers.
        "-Dquarkus.datasource.jdbc.initial-size=1",
        "-Dquarkus.datasource.jdbc.min-size=1",
        "-Dquarkus.datasource.jdbc.max-size=8",
        "-jar",
        join(bundle, runner),
      ],
      cwd: dataDir,
      // Each answered registration is on disk: a kill right after it must not lose an id.
      env: {
        ...serverEnv(shop.env),
        REGISTRY_DATASOURCE_URL: `jdbc:h2:file:${join(dataDir, "registry")};WRITE_DELAY=0`,
      },
      logFile,
      orphanSignal: "SIGTERM",
    },
    stopSignal: "SIGTERM",
    dropSignal: archive.isWriting ? "SIGTERM" : "SIGKILL",
    check: () => askRegistry(url),
    afterStop: archive.adopt,
  };
}
