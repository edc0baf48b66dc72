import { createApp } from "vue";
import App from "./App.vue";
import { follow } from "./state/live";
import { followAddress } from "./state/place";
import { keepOverReload } from "./state/session";
import "uplot/dist/uPlot.min.css";
import "./style.css";

keepOverReload();
followAddress();
void follow();
createApp(App).mount("#app");
