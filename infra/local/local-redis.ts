/**
 * Redis as a local process: `redis-server` from the PATH, else the binary that a Maven jar carries.
 *
 * Promises: what was answered survives a kill of the process (append-only file), as on a machine that is not lost.
 */
import { chmod, mkdir } from "node:fs/promises";
import { arch, platform } from "node:os";
import { join } from "node:path";
import { bundles, CannotRun, fetchBundle, findOnPath, serverEnv, type Workshop } from "./binaries.ts";
import type { LocalServer } from "./local-server.ts";
import { askRedis } from "./readiness.ts";

/** The jar's names do not always tell the version inside: the first one is really 6.2.11. */
const carried: Readonly<Record<string, string>> = {
  "linux-x64": "redis-server-6.2.6-v5-linux-amd64",
  "linux-arm64": "redis-server-6.2.7-linux-arm64",
  "darwin-x64": "redis-server-6.2.6-v5-darwin-amd64",
  "darwin-arm64": "redis-server-6.2.6-v5-darwin-arm64",
};

export async function prepareRedis(
  shop: Workshop,
  dataDir: string,
  logFile: string,
  port: number,
): Promise<LocalServer> {
  const command = (await findOnPath("redis-server", shop.env)) ?? (await carriedServer(shop));
  const version = await versionOf(command, shop);
  await mkdir(dataDir, { recursive: true });
  const url = `redis://127.0.0.1:${port}`;
  return {
    name: "redis",
    url,
    title: `Redis ${version}`,
    launch: {
      command,
      args: ["--port", String(port), "--bind", "127.0.0.1", "--dir", dataDir, "--save", "", "--appendonly", "yes"],
      cwd: dataDir,
      env: serverEnv(shop.env),
      logFile,
      orphanSignal: "SIGTERM",
    },
    stopSignal: "SIGTERM",
    dropSignal: "SIGKILL",
    check: () => askRedis(url),
  };
}

async function carriedServer(shop: Workshop): Promise<string> {
  const machine = `${platform()}-${arch()}`;
  const name = carried[machine];
  if (name === undefined) throw new CannotRun(`no redis-server on the PATH, and none is carried along for ${machine}.`);
  const file = join(
    await fetchBundle(bundles.redis, shop).catch((error: unknown) => {
      throw error instanceof CannotRun ? new CannotRun(`no redis-server on the PATH. ${error.message}`) : error;
    }),
    name,
  );
  await chmod(file, 0o755);
  return file;
}

/** Also finds out whether the binary runs here at all: the carried one needs libraries of the system. */
async function versionOf(command: string, shop: Workshop): Promise<string> {
  const { code, output, error } = await shop.guard.run({
    command,
    args: ["--version"],
    cwd: shop.cacheDir,
    env: serverEnv(shop.env),
  });
  const version = / v=([\d.]+)/.exec(output)?.[1];
  if (code !== 0 || version === undefined) {
    throw new CannotRun(`"${command}" does not run on this machine: ${error ?? output.trim().slice(-300)}`);
  }
  return version;
}
