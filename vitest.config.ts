import { defineConfig } from "vitest/config";

const folders = "{api,bench,bin,consumers,infra,jobs,protocol,rebuild,replay,schemas,sdk,store,streams,tests}";

/** What `expect.poll` waits for comes within a second where there is a core for it. */
const POLL_MS_MAX = 20_000;

/**
 * A test with real servers is tried again once before it fails, and is named at the end of the run (docs/decisions/0050-a-second-try.md). Where what is judged is
 * whether a message was lost, it is not: `retry: 0` stands there.
 */
const SECOND_TRY = 1;

/**
 * `*.test.ts` needs no server; `*.server.test.ts` shares real ones, started once for the run; `*.e2e.test.ts` runs the whole service
 * on servers of its own, one file after the other, when the rest is done.
 */
export default defineConfig({
  test: {
    passWithNoTests: false,
    maxWorkers: 2,
    reporters: ["default", "./tests/second-tries.ts"],
    projects: [
      {
        test: {
          name: "unit",
          include: [`${folders}/**/*.test.ts`],
          exclude: ["**/*.server.test.ts", "**/*.e2e.test.ts"],
          testTimeout: 90_000,
          expect: { poll: { timeout: POLL_MS_MAX } },
        },
      },
      {
        test: {
          name: "servers",
          include: [`${folders}/**/*.server.test.ts`],
          globalSetup: ["tests/global-setup.ts"],
          testTimeout: 120_000,
          retry: SECOND_TRY,
          expect: { poll: { timeout: POLL_MS_MAX } },
          hookTimeout: 180_000,
        },
      },
      {
        test: {
          name: "e2e",
          include: [`${folders}/**/*.e2e.test.ts`],
          fileParallelism: false,
          sequence: { groupOrder: 1 },
          testTimeout: 300_000,
          retry: SECOND_TRY,
          expect: { poll: { timeout: POLL_MS_MAX } },
          hookTimeout: 180_000,
        },
      },
    ],
  },
});
