# ruff: noqa: RUF001
r"""Units, currencies, counted things, numbers in words: which quantities are the same.

Each pair is (gold, answer); the answer stands in a box, as in most responses.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from virgo_ray.records import Status
from virgo_ray.verify.answers.number import parse_number
from virgo_ray.verify.item import Item
from virgo_ray.verify.verdict import judge_item

SAME_UNITS = [
    ("8 m/s", r"8\ \mathrm{m\,s^{-1}}"),
    ("8 m/s", r"8 \text{ meters per second}"),
    ("8 m s^{-1}", r"8\,\text{m/s}"),
    ("8 m/s", r"8\ \frac{\text{m}}{\text{s}}"),
    ("1.6 m/s^2", r"1.6\ \mathrm{m/s^2}"),
    ("1.6 m/s^2", r"1.6\ \mathrm{m\cdot s^{-2}}"),
    ("1.6 m/s²", r"1.6 \text{ meters per second squared}"),
    ("36 km/h", r"10 \text{ m/s}"),
    ("72 km/h", "72 kilometres per hour"),
    ("4 MJ", r"4000\text{ kJ}"),
    ("4 kW", r"4000 \text{ watts}"),
    (r"7 \mu m", r"7\times10^{-6}\text{ m}"),
    (r"7 \mu F", r"7 \text{ µF}"),
    ("3 µs", r"3000 \text{ ns}"),
    ("2 mL", r"2\text{ cm}^3"),
    ("2 L", r"2000\ \mathrm{cm^3}"),
    ("300 K", r"300\text{ K}"),
    ("30°C", r"30^{\circ}\mathrm{C}"),
    ("30 °C", r"30\ ^\circ\text{C}"),
    ("30 degrees Celsius", "30°C"),
    ("30°C", r"303.15\text{ K}"),
    ("212 °F", r"100^\circ\text{C}"),
    (r"60^\circ", r"\frac{\pi}{3}"),
    (r"60^\circ", r"\frac{\pi}{3}\text{ rad}"),
    (r"\frac{\pi}{3}", r"60^\circ"),
    (r"60^\circ", r"\pi/3 \text{ radians}"),
    (r"60^\circ", r"60 \text{ degrees}"),
    (r"60^\circ", "60"),
    ("1 m^3", "1000 liters"),
    ("640 acres", "1 square mile"),
    ("2 hectares", r"20000\text{ m}^2"),
    ("3 square feet", r"3 \text{ ft}^2"),
    ("3 sq ft", r"432\text{ in}^2"),
    ("3 kg·m²", r"3\ \mathrm{kg\,m^2}"),
    ("4.2 J/(g K)", r"4200\ \mathrm{J/(kg\cdot K)}"),
    ("2 N", r"2\ \mathrm{kg\,m/s^2}"),
    ("2 C", r"2\ \mathrm{A\,s}"),
    (r"3\ \Omega", r"3 \text{ ohms}"),
    (r"3\ \text{k}\Omega", r"3000\ \Omega"),
    ("5 kWh", r"18\text{ MJ}"),
    ("2 GB", r"2000\text{ MB}"),
    ("1 GiB", r"1024\text{ MiB}"),
    ("2 bytes", r"16\text{ bits}"),
    ("3 dozen eggs", "36"),
    ("150 minutes", r"2\text{ hours }30\text{ minutes}"),
    ("150 minutes", "2 hours and 30 minutes"),
    ("2 h 30 min", r"2.5\text{ hours}"),
    ("6 feet 2 inches", r"74\text{ inches}"),
    ("6 ft 2 in", r"6'2''".replace("''", '"')),
    ("2 lb 4 oz", r"36\text{ oz}"),
    ("3 years", r"36\text{ months}"),
    ("2 decades", r"20\text{ years}"),
    ("2 weeks", r"14\text{ days}"),
    (r"\frac{37}{8} kg", r"\frac{37\text{ kg}}{8}"),
    (r"\frac{11}{3} m", r"\frac{11m}{3}"),
    (r"2\sqrt{5}", r"2\sqrt{5}\text{ cm}"),
    (r"2\sqrt{5}\text{ m}", r"200\sqrt{5}\text{ cm}"),
    (r"12\pi\text{ cm}^2", r"12\pi"),
    ("52.9 pm", r"5.29\times10^{-11}\text{ m}"),
    ("9 kg", "9 KG"),
    ("9 g/mol", r"9\ \mathrm{g\,mol^{-1}}"),
    ("9 mph", "9 miles per hour"),
    ("9 公斤", r"9\text{ kg}"),
    ("9厘米", "9"),
    ("9 平方米", r"9\text{ m}^2"),
    ("9 km/h", "9千米/小时"),
    ("9 см", r"9\text{ cm}"),
    ("9 кг", "9"),
    ("9个", "9"),
    ("1小时30分钟", r"90\text{ minutes}"),
    ("6562Å", "6562"),
    ("12 [cm]", "12 cm"),
    ("12", "12 (cm)"),
    ("12", "12m"),
]
OTHER_UNITS = [
    ("8 nm", r"8\text{ km}"),
    ("8 mW", r"8\text{ MW}"),
    ("8 MB", r"8\text{ Mb}"),
    ("8 GB", r"8\text{ MB}"),
    ("8 kHz", r"8\text{ Hz}"),
    ("8 km/h", r"8\text{ mph}"),
    ("8 m/s", r"8\text{ m/s}^2"),
    ("8 volts", r"8\text{ amperes}"),
    ("8 W", r"8\text{ J}"),
    ("8 mol", r"8\text{ mmol}"),
    ("8 years", r"8\text{ decades}"),
    ("8 months", r"8\text{ years}"),
    ("8 gallons", r"8\text{ pints}"),
    ("8 hours", r"8\text{ minutes}"),
    ("8 rad", r"8^\circ"),
    ("60^\\circ", r"\frac{\pi}{4}"),
    ("60^\\circ", r"\frac{2\pi}{3}\text{ rad}"),
    ("30 °C", r"30\text{ K}"),
    ("30 °C", r"30^\circ\text{F}"),
    ("30°", "30°C"),
    ("8 kg", r"8\text{ cm}"),
    ("8 cm", r"8\text{ cm}^2"),
    ("8 cm", "8 apples"),
    ("8 miles", r"8\text{ kilometers}"),
    ("2 h 30 min", r"2\text{ h }40\text{ min}"),
    ("150 minutes", "2 hours 20 minutes"),
    ("6 feet 2 inches", r"62\text{ inches}"),
    (r"2\sqrt{5}\text{ m}", r"2\sqrt{5}\text{ cm}"),
    (r"\frac{37}{8} kg", r"\frac{37\text{ g}}{8}"),
    ("5m", "5"),
    ("5x", "5"),
    ("5 公斤", "5 克"),
    ("5 см", "5 м"),
    ("J/kg", "J"),
    ("8 g/mL", r"8\text{ g/L}"),
    ("8 Pa", r"8\text{ kPa}"),
    ("8 people per km^2", "8 people per mile^2"),
    ("1 GB", "1 Gb"),
    ("52 weeks", "1 week"),
]
SAME_MONEY = [
    ("$9", r"\$9"),
    ("USD 9", r"\$9"),
    ("9 USD", r"9\text{ dollars}"),
    ("$9", r"9"),
    ("£9", r"9\text{ pounds}"),
    ("$9.50", r"950\text{ cents}"),
    ("£2", r"200\text{ pence}"),
    ("€9", r"9\text{ euros}"),
    ("₹900", r"\text{Rs. }900"),
    ("₹900", "900 rupees"),
    ("¥9", r"9\text{元}"),
    ("¥9", r"9\text{ yen}"),
    ("9 yuan", "9元"),
    ("9 рублей", "9 ₽"),
    ("$1.2 million", r"\$1{,}200{,}000"),
    ("$1.2M", r"\$1.2\text{ million}"),
    ("-$9", r"-\$9"),
    ("-$9", r"\$-9"),
    ("$9 per hour", r"\$9/\text{hour}"),
    ("$9", r"\text{\$9}"),
    ("$9", "US$9"),
    ("$9", r"9\text{ dollars profit}"),
]
OTHER_MONEY = [
    ("£9", r"\$9"),
    ("€9", r"\$9"),
    ("£9", "9 euros"),
    ("9 yen", r"9\text{ dollars}"),
    ("9 cents", r"\$9"),
    ("9 pounds", r"9\text{ euros}"),
    ("9 USD", "9 CAD"),
    ("$9 profit", r"\$9\text{ loss}"),
    ("$9 gain", r"9\text{ dollars loss}"),
    ("$9", r"-\$9"),
    ("$9", "9 kg"),
    ("9元", "9美元"),
    ("9 рублей", "9 евро"),
    ("$9 per hour", r"\$9\text{ per day}"),
    ("₹9", "¥9"),
]
SAME_THINGS = [
    ("18", "18 eggs"),
    ("18 eggs", "18"),
    ("7 apples", "7 apple"),
    ("7 apples", "7 red apples"),
    ("7 red apples", r"7\text{ apples}"),
    ("7 slices of pizza", "7 slices"),
    ("7 people", "7 persons"),
    ("7 square units", "7"),
    ("7 units^2", "7 square units"),
    ("7 square units", r"7\text{ cm}^2"),
    ("7 pairs", "7 pairs"),
    ("7 boxes", "7 box(es)"),
    ("7 years", "7 years old"),
    ("7 meters", "7 meters long"),
    ("7 apples", "7 apples left"),
    ("7 students", "7 students in total"),
    ("3 times", "3 times"),
    ("3rd", "3"),
]
OTHER_THINGS = [
    ("7 apples", "7 oranges"),
    ("7 red apples", "7 green apples"),
    ("7 apples", "7 apple pies"),
    ("7 boys", "7 girls"),
    ("7 wins", "7 losses"),
    ("7 east", "7 west"),
    ("7 units left", "7 units right"),
    ("7 students per class", "7 students per school"),
    *[
        ("7", f"7{before}{word}{after}")
        for before, after in ((" ", ""), (r"\text{ ", "}"))
        for word in (
            "billion", "trillion", "hundred", "thousands", "dozen", "lakh", "crore", "gross",
            "score", "pairs", "couples", "squared", "cubed", "factorial", "doubled", "tripled",
            "halved", "less", "more", "fewer", "halves", "thirds", "quarters", "tenths",
            "hundredths", "thousandths", "minus two", "plus three", "times five", "over two",
            "below zero", "to one", "to two", "pm", "am", "and a half", "or so", "or more",
            "or eight", "mod 10", "modulo ten", "point five", "twenty", "per mille",
            "to the third", "hundred and two",
        )
    ],
    ("7 pm", "7 am"),
    ("7", "7 k"),
    ("7", "7k"),
    ("7", "7bn"),
]  # fmt: skip
SAME_NUMBERS = [
    ("42", "forty two"),
    ("42", r"\text{forty-two}"),
    ("1000", r"\text{a thousand}"),
    ("105000", "one hundred and five thousand"),
    ("1234", "one thousand two hundred thirty-four"),
    ("0.4", r"\text{two fifths}"),
    ("2.5", "two and a half"),
    ("2.75", "two and three quarters"),
    ("1/2", "half"),
    ("1/3", r"\text{one third}"),
    ("-12", "minus twelve"),
    ("-12", "negative 12"),
    ("3.14", "three point one four"),
    ("12", "a dozen"),
    ("6", "half a dozen"),
    ("twelve", "12"),
    ("three", "3 apples"),
    ("3400", "3.4k"),
    ("3400000", "3.4M"),
    ("3400000", "3.4 million"),
    ("2500000000", "2.5bn"),
    ("5000", "5K"),
    ("30000", "3万"),
    ("700000", "7 lakh"),
    ("7/3", "7 thirds"),
    ("49", "7 squared"),
    ("7.5", "7 and a half"),
    ("2/9", r"0.\dot{2}"),
    ("2/9", "0.222..."),
    ("2/9", r"0.222\ldots"),
    ("2/9", "0.(2)"),
    ("5/11", r"0.\overline{45}"),
    (r"0.\overline{45}", r"\frac{5}{11}"),
    ("7/6", r"1.1\overline{6}"),
    ("7/6", "1.1666..."),
    ("41/333", r"0.\dot{1}2\dot{3}"),
    ("1", r"0.\overline{9}"),
    ("2.000.000", "2000000"),
    ("3.456.789,5", "3456789.5"),
    ("1.234,5", "1234.5"),
    ("23,45,678", "2345678"),
    ("1'234'567", "1234567"),
    ("11/3", "3⅔"),
    ("0.375", "⅜"),
    ("10^7", "10⁷"),
    ("10^7", "10000000"),
    ("0.0034", "3.4 × 10⁻³"),
    ("7‰", "0.007"),
    ("7‰", "0.7%"),
    ("35%", "35 per cent"),
    ("35%", r"\text{35\%}"),
    ("43_7", r"43_{\text{seven}}"),
    ("43_7", "43 (base 7)"),
    ("101_2", r"101_{\text{two}}"),
    ("16", r"\text{about }16"),
    ("16", "approximately 16"),
    ("16", r"\text{approx. }16"),
    ("16.25", r"16.25\pm0.05"),
    (r"\infty", r"\text{infinity}"),
    (r"-\infty", r"\text{negative infinity}"),
    ("no solution", r"\varnothing"),
    (r"\emptyset", r"\text{no real solutions}"),
    (r"\varnothing", r"\text{the empty set}"),
]
OTHER_NUMBERS = [
    ("42", "forty three"),
    ("42", "four two"),
    ("1000", "a hundred"),
    ("3/4", "three halves"),
    ("-12", "twelve"),
    ("105000", "one hundred five"),
    ("3.4", "3.4k"),
    ("3400", "3.4M"),
    ("2/9", "0.2"),
    ("2/9", "0.22"),
    ("5/11", r"0.4\overline{5}"),
    ("1.000", "1000"),
    ("2.000.000", "2"),
    ("11/3", "3⅓"),
    ("10^7", "10⁶"),
    ("7‰", "7"),
    ("7‰", "7%"),
    ("43_7", r"43_{\text{eight}}"),
    ("43_7", "43_{6}"),
    ("16", r"\text{about }17"),
    ("2", r"2.5\pm0.5"),
    (r"\infty", r"\text{minus infinity}"),
    ("no solution", r"\{0\}"),
    ("no solution", "0"),
]
IN_FONTS = [
    ("7 apples", r"\text{7 apples}"),
    ("15 cm", r"\text{15 cm}"),
    ("15 cm", r"\mathrm{15\ cm}"),
    ("15 cm", r"\mathbf{15\ \text{cm}}"),
    ("15", r"\textbf{15}"),
    ("15 m/s", r"\mathrm{15\,m\,s^{-1}}"),
    ("15%", r"\text{15\%}"),
    ("2,500", r"\text{2,500}"),
    ("y=4", r"\text{y = 4}"),
    ("4", r"\text{y = 4}"),
    (r"30^\circ", r"\text{30 degrees}"),
    ("15", r"15\\"),
    ("15", r"15\ [\text{cm}]"),
    ("15", r"\text{Length: }15"),
    ("15", r"\text{Length: 15 cm}"),
    ("4 hours", r"\text{4 hours}"),
    ("2.5", r"\text{2.5 m/s}"),
]
NOT_IN_FONTS = [
    ("15 cm", r"\text{15 m}"),
    ("15 cm", r"\mathrm{16\ cm}"),
    ("Profit: 15", r"\text{Loss: }15"),
    ("15%", r"\text{16\%}"),
]
PRECISE = [
    ("2400 (tolerance 5%)", "2.4k"),
    ("0.4 (1 decimals)", "0.35"),
    ("22.8 (1 decimals)", "22.75"),
    ("-0.4 (1 decimals)", "-0.35"),
    ("6 (tolerance 0.5)", r"\sqrt{37}"),
    ("3.14 (2 decimals)", r"\pi"),
    ("1.41 (3 s.f.)", r"\sqrt{2}"),
    ("1.41 m (3 s.f.)", r"\sqrt{2}\text{ m}"),
    ("9.8 m/s^2 (tolerance 0.1)", r"9.81\ \mathrm{m/s^2}"),
    ("2 m (tolerance 0.1)", "205 cm"),
]
IMPRECISE = [
    ("2400 (tolerance 5%)", "2.4M"),
    ("0.4 (1 decimals)", "0.34"),
    ("6 (tolerance 0.05)", r"\sqrt{37}"),
    ("3.15 (2 decimals)", r"\pi"),
    ("6 (tolerance 0.5)", r"x"),
    ("6 (tolerance 0.5)", r"\sqrt{-37}"),
    ("2 m (tolerance 0.1)", "205 mm"),
]


def is_correct(gold: str, answer: str) -> bool:
    return judge_item(Item(gold=gold, text=rf"\boxed{{{answer}}}")).is_correct


@pytest.mark.parametrize(
    ("gold", "answer"),
    SAME_UNITS + SAME_MONEY + SAME_THINGS + SAME_NUMBERS + IN_FONTS + PRECISE,
)
def test_the_same_quantity_is_correct(gold: str, answer: str) -> None:
    assert is_correct(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    OTHER_UNITS + OTHER_MONEY + OTHER_THINGS + OTHER_NUMBERS + NOT_IN_FONTS + IMPRECISE,
)
def test_another_quantity_is_wrong(gold: str, answer: str) -> None:
    assert not is_correct(gold, answer)


@pytest.mark.parametrize(
    ("text", "gold", "status"),
    [
        ("minus 9", "-9", Status.CORRECT),
        ("The answer is thirty four.", "34", Status.CORRECT),
        ("In the end there are five green birds on the roof.", "5", Status.CORRECT),
        ("In the end there are five or six birds on the roof.", "5", Status.WRONG),
        ("In the end there are six green birds on the roof.", "5", Status.WRONG),
        ("So the box weighs 12 kg in all.", "12", Status.CORRECT),
        ("So the box weighs 12 kg in all.", "12 kg", Status.CORRECT),
        ("So the box weighs 12 kg in all.", "12 g", Status.WRONG),
        ("The answer is 12 kg because we add.", "12000 g", Status.CORRECT),
        ("The answer is 12 kg because we add.", "12 g", Status.WRONG),
        ("So the train goes 12 miles per hour.", "12 km/h", Status.WRONG),
        ("So there are 12 in all.", "12 apples", Status.CORRECT),
        ("There are 7 trillion cells in it.", "7", Status.WRONG),
        ("There are 7 trillion cells in it.", "7000000000000", Status.CORRECT),
        ("It costs $12 in all.", "£12", Status.WRONG),
        ("This one is the largest of them.", "1", Status.WRONG),
    ],
)
def test_numbers_in_words_are_found_in_sentences(text: str, gold: str, status: Status) -> None:
    found = judge_item(Item(gold=gold, text=text)).status
    assert (found is Status.CORRECT) == (status is Status.CORRECT)


@pytest.mark.parametrize(
    "tail", ["m" * 5000, "m/" * 3000, "(" * 3000, "m^9^9^9", "m**9**9**9", "one " * 900]
)
def test_a_long_unit_is_refused_quickly(tail: str) -> None:
    assert parse_number(f"5 {tail}") is None


def test_a_plain_number_does_not_import_pint() -> None:
    code = (
        "import sys; from virgo_ray.verify.answers.number import parse_number as parse;"
        "assert parse('12') and parse('18 eggs') and parse('1/2') and parse('three');"
        "assert 'pint' not in sys.modules; parse('12 cm'); assert 'pint' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
