/** API8 to API10 of the matrix in tests/owasp: what the service says of itself, serves, and stands on. */
import { runCells } from "../../tests/owasp/run-cells.ts";

runCells("API8", "API9", "API10");
