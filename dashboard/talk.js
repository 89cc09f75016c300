// The conversation: a turn is chosen by a click or by its button, and what is new is scrolled to.
const newest = () => element.querySelector(".turn.newest");
let seen = null;

function follow() {
  const turn = newest(), box = element.querySelector(".talk");
  const key = turn && `${turn.dataset.turn} ${turn.classList.contains("running")}`;
  if (box && (turn?.classList.contains("running") || key !== seen)) box.scrollTop = box.scrollHeight;
  // Where the columns are below each other, the question was typed far from where its answer appears.
  if (key && key !== seen && turn.classList.contains("running") && innerWidth < 900) {
    element.scrollIntoView({ block: "start", behavior: "smooth" });
  }
  seen = key;
}

element.addEventListener("click", (event) => {
  const turn = event.target.closest("[data-turn]");
  if (turn && !getSelection().toString()) trigger("select", { index: Number(turn.dataset.turn), value: "" });
});
watch("value", follow);
follow();
