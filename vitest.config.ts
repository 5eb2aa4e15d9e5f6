import { defineConfig } from "vitest/config";

const folders = "{api,bench,bin,consumers,infra,jobs,protocol,schemas,sdk,store,streams,tests}";

/** `*.test.ts` needs no server; `*.server.test.ts` runs against the real ones, started once for the whole run. */
export default defineConfig({
  test: {
    passWithNoTests: false,
    maxWorkers: 2,
    projects: [
      { test: { name: "unit", include: [`${folders}/**/*.test.ts`], exclude: ["**/*.server.test.ts"] } },
      {
        test: {
          name: "servers",
          include: [`${folders}/**/*.server.test.ts`],
          globalSetup: ["tests/global-setup.ts"],
          testTimeout: 60_000,
          hookTimeout: 180_000,
        },
      },
    ],
  },
});
