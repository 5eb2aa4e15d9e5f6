import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["{api,bench,bin,consumers,infra,jobs,protocol,schemas,sdk,store,streams,tests}/**/*.test.ts"],
    passWithNoTests: false,
  },
});
