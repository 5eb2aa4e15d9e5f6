/** `node bin/service.ts [--prepare] [PART...]`: service-main.ts, which says what it is. */
import { keepCompiled } from "./compiled.ts";

keepCompiled();
await import("./service-main.ts");
