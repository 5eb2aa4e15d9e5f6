/** API1 and API3 of the matrix in tests/owasp: whose things, and which of their members. */
import { runCells } from "../../tests/owasp/run-cells.ts";

runCells("API1", "API3");
