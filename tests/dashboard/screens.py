"""A page of the dashboard in a real browser, which remembers what went wrong on it."""


class Screen:
    """A page at `url`, up once the element `ready` is there.

    errors: what scripts complained about; abroad: addresses on other hosts that the page asked for.
    """

    def __init__(self, browser, url: str, width: int, ready: str):
        self.page = browser.new_page(viewport={"width": width, "height": 900}, accept_downloads=True)
        self.page.set_default_timeout(60_000)
        self.errors, self.abroad = [], []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: message.type == "error" and self._note(message))
        self.page.on("dialog", lambda dialog: (self.errors.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.page.on("request", lambda request: self._check(request.url, url.partition("?")[0]))
        self.page.goto(url)
        self.page.wait_for_selector(ready)

    def _note(self, message) -> None:
        self.errors.append(f"{message.text} {message.location.get('url', '')}")

    def _check(self, address: str, home: str) -> None:
        if not address.startswith((home, "data:", "blob:")):
            self.abroad.append(address)

    def open_tab(self, title: str) -> None:
        self.page.get_by_role("tab", name=title).click()

    def fill(self, widget: str, text: str) -> None:
        """Write into the field of a widget and leave it."""
        field = self.page.locator(f"{widget} input, {widget} textarea").first
        field.fill(text)
        field.press("Tab")

    def choose(self, widget: str, *options: str) -> None:
        """Pick entries of a dropdown."""
        field = self.page.locator(f"{widget} input").first
        for option in options:
            field.click()
            field.fill(option)
            self.page.locator("ul[role=listbox] li", has_text=option).first.click()
        field.press("Escape")

    def wait_for_text(self, widget: str, text: str) -> None:
        self.page.wait_for_selector(f"{widget} >> text={text}")

    def wait_for_change(self, selector: str, attribute: str, before: str) -> None:
        self.page.wait_for_function(
            "([selector, name, before]) => document.querySelector(selector)?.getAttribute(name) != before",
            arg=[selector, attribute, before],
        )

    def cut_off(self) -> bool:
        """Whether something is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth > window.innerWidth")

    def leave(self) -> None:
        """Close the page; nothing may have gone wrong on it, and nothing may have left this host."""
        self.page.close()
        assert not self.errors and not self.abroad, f"{self.errors} {self.abroad}"
