/** The report that `etl report` writes: draws its charts, sorts its tables and keeps the age of its data right. */

import "uplot/dist/uPlot.min.css";
import "../style.css";
import "./report.css";
import { tellAges } from "./ages";
import { drawAll } from "./drawing";
import { sortTables } from "./tables";

sortTables();
drawAll();
tellAges();
