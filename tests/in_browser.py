"""Pages in a browser: wait for what they draw, and check that everyone can use them."""


def until(tab, expression):
    """Wait until it holds; the page's policy forbids playwright's own way, which evaluates text there."""
    for _ in range(600):
        if tab.evaluate(expression):
            return
        tab.wait_for_timeout(50)
    raise AssertionError(expression)


def violations(tab):
    """The rules that axe-core finds broken, without those of minor impact."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(tab).response
    assert len(found["passes"]) > 20, "it did not look"
    return [line["id"] for line in found["violations"] if line["impact"] in ("serious", "critical", "moderate")]
