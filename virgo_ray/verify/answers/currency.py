"""Money: names, signs and ISO codes of currencies; every currency is a dimension of its own."""

from __future__ import annotations

import re
from fractions import Fraction

_SIGNS = {
    "$": "USD", "US$": "USD", "€": "EUR", "£": "GBP", "₹": "INR", "₽": "RUB", "₩": "KRW",
    "₪": "ILS", "฿": "THB", "₫": "VND", "₦": "NGN", "₱": "PHP", "₺": "TRY", "₴": "UAH", "₡": "CRC",
    "A$": "AUD", "AU$": "AUD", "C$": "CAD", "CA$": "CAD", "HK$": "HKD", "NZ$": "NZD", "S$": "SGD",
    "R$": "BRL", "NT$": "TWD", "Rs.": "INR", "Rs": "INR", "Re": "INR", "RMB": "CNY", "Rp": "IDR",
    "\\pounds": "GBP", "\\euro": "EUR", "\\texteuro": "EUR", "\\yen": "JPY", "zł": "PLN",
}  # fmt: skip
_CODES = (
    "USD EUR GBP JPY CNY INR RUB KRW ILS THB VND NGN PHP TRY UAH AUD CAD HKD NZD SGD BRL TWD IDR"
    " CHF SEK NOK DKK PLN CZK HUF MXN ZAR EGP PKR BDT LKR NPR MYR AED SAR ARS CLP COP PEN KES GHS"
)
CODES = frozenset(_CODES.split())
SIGNS = _SIGNS | {code: code for code in CODES}
NAMES = {
    "dollar": "USD", "buck": "USD", "us dollar": "USD", "u.s. dollar": "USD",
    "american dollar": "USD", "euro": "EUR", "pound sterling": "GBP", "british pound": "GBP",
    "quid": "GBP", "yen": "JPY", "japanese yen": "JPY", "yuan": "CNY", "renminbi": "CNY",
    "chinese yuan": "CNY", "rupee": "INR", "indian rupee": "INR", "ruble": "RUB", "rouble": "RUB",
    "won": "KRW", "korean won": "KRW", "swiss franc": "CHF", "franc": "CHF", "baht": "THB",
    "dong": "VND", "naira": "NGN", "real": "BRL", "reais": "BRL", "rand": "ZAR", "shekel": "ILS",
    "zloty": "PLN", "australian dollar": "AUD", "canadian dollar": "CAD",
    "hong kong dollar": "HKD", "singapore dollar": "SGD", "ringgit": "MYR", "dirham": "AED",
    "peso": "MXN", "lira": "TRY", "taka": "BDT", "rupiah": "IDR", "krona": "SEK", "rs": "INR",
}  # fmt: skip
_HUNDREDTHS = {
    "US_cent": "USD", "GBP_penny": "GBP", "INR_paisa": "INR", "RUB_kopeck": "RUB",
    "CNY_fen": "CNY", "EUR_cent": "EUR",
}  # fmt: skip
PARTS = {name: (code, Fraction(1, 100)) for name, code in _HUNDREDTHS.items()} | {
    "CNY_jiao": ("CNY", Fraction(1, 10))
}
# A cent is the hundredth of a dollar or of a euro.
PART_NAMES = {
    "cent": ("US_cent", "EUR_cent"), "¢": ("US_cent", "EUR_cent"), "penny": ("GBP_penny",
    "US_cent"), "pennies": ("US_cent", "GBP_penny"), "pence": ("GBP_penny",),
    "paise": ("INR_paisa",), "paisa": ("INR_paisa",), "kopeck": ("RUB_kopeck",),
    "jiao": ("CNY_jiao",), "fen": ("CNY_fen",),
}  # fmt: skip
_BEFORE = "|".join(re.escape(sign) for sign in sorted((*SIGNS, "¥", "￥"), key=len, reverse=True))
BEFORE = re.compile(rf"(?P<sign>[+-]?)\s?(?P<currency>{_BEFORE})\s?(?=[-+0-9.\\])")
